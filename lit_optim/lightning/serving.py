"""Supports modules that call the optimizer and the scheduler that their constructor gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lit_optim.lightning.configure import configure_optimizers
from lit_optim.lightning.parts import Part
from lit_optim.lightning_classes import LightningModule
from lit_optim.param_groups import MakeGroups, no_decay
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.attach import SCHEDULER_FACTORY
from lit_optim.schedules.core import Schedule
from lit_optim.wrappers import Wrapped

#: The `Serving` of the module whose configure_optimizers is being called.
SERVING: ContextVar[Serving | None] = ContextVar("SERVING", default=None)


class ServedOptimizer(Wrapped):
    """Creates an optimizer from param groups or, within a served module, from parameters."""

    def __call__(self, params: Any, **more: Any) -> Optimizer:
        """Create the wrapped optimizer, its parameters divided by the run's `param_groups`."""
        serving = SERVING.get()
        given = [params] if isinstance(params, Tensor) else list(params)
        if serving is None or not all(isinstance(p, Tensor) for p in given):
            return super().__call__(given, **more)
        make = partial(self.make, **more) if more else self.make
        return serving.make_optimizer(Wrapped(make, self.wrap), given)


def serve(
    module: LightningModule,
    own: Callable[[], Any],
    scheduler: Schedule | None,
    param_groups: MakeGroups | None,
    more: Mapping[str, Any],
) -> Any:
    """Call a module's own `configure_optimizers` with what fits the run; see `Serving`."""
    return Serving(module, scheduler, param_groups, more).call(own)


class Serving:
    """Serves one call of a module's own `configure_optimizers`.

    Such a module works like that of lightning-hydra-template:

        optimizer = self.hparams.optimizer(params=self.parameters())
        scheduler = self.hparams.scheduler(optimizer=optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, ...}}

    Both are then what `lit_optim.configure_optimizers` returns for this run: the parameters are
    divided into groups, the schedule has the length of the run, and it is stepped after every
    update, whatever interval the module sets.

    Args:
        module: attached to its trainer.
        scheduler: of the run.
        param_groups: of the run.
        more: the other arguments of `configure_optimizers`.
    """

    def __init__(
        self,
        module: LightningModule,
        scheduler: Schedule | None,
        param_groups: MakeGroups | None,
        more: Mapping[str, Any],
    ) -> None:
        self.module, self.scheduler, self.more = module, scheduler, more
        self.param_groups = param_groups or no_decay
        self._served: list[dict[str, Any]] = []

    def call(self, own: Callable[[], Any]) -> Any:
        """Return what the module's `configure_optimizers` does, with schedules at every update."""
        tokens = SERVING.set(self), SCHEDULER_FACTORY.set(self.make_scheduler)
        try:
            return self._finish(own())
        finally:
            SERVING.reset(tokens[0])
            SCHEDULER_FACTORY.reset(tokens[1])

    def make_optimizer(self, make: Wrapped, params: list[Tensor]) -> Optimizer:
        """Create an optimizer for these parameters of the module."""

        def groups(module: Any) -> list[dict[str, Any]]:
            return Part(params).restrict(self.param_groups(module))

        made = configure_optimizers(self.module, make, self.scheduler, groups, **self.more)
        self._served.append(made)
        optimizer: Optimizer = made["optimizer"]
        return optimizer

    def make_scheduler(self, schedule: Schedule, optimizer: Any) -> Any:
        """Return the scheduler of an optimizer."""
        for made in self._served:
            if made["optimizer"] is optimizer and "lr_scheduler" in made:
                return made["lr_scheduler"]["scheduler"]
        made = configure_optimizers(self.module, lambda _: optimizer, schedule, lambda _: [])
        return made["lr_scheduler"]["scheduler"]

    def _finish(self, result: Any) -> Any:
        """Return mappings, Lightning's most explicit form, if an optimizer was created here."""
        served = {id(made["optimizer"]): made for made in self._served}
        mappings = [_to_mapping(item) for item in _list_optimizers(result)]
        if not any(id(m["optimizer"]) in served or _has_scheduled_lr(m) for m in mappings):
            return result
        for mapping in mappings:
            made = served.get(id(mapping["optimizer"]), {})
            if "lr_scheduler" in made:
                mapping["lr_scheduler"] = made["lr_scheduler"]
            elif _has_scheduled_lr(mapping):
                step = {"interval": "step", "frequency": 1, "name": "lr"}
                scheduler = mapping["lr_scheduler"]["scheduler"]
                mapping["lr_scheduler"] = {"scheduler": scheduler} | step
        return mappings[0] if len(mappings) == 1 else tuple(mappings)


def _list_optimizers(result: Any) -> list[Any]:
    """Return the optimizers, or the mappings that contain them, in what Lightning accepts."""
    if isinstance(result, Optimizer | Mapping):
        return [result]
    if not isinstance(result, tuple | list):
        return []
    if len(result) == 2 and all(isinstance(part, list) for part in result):
        optimizers, schedulers = result
        return [
            {"optimizer": one} | ({"lr_scheduler": schedulers[i]} if i < len(schedulers) else {})
            for i, one in enumerate(optimizers)
        ]
    return list(result)


def _to_mapping(one: Any) -> dict[str, Any]:
    made = dict(one) if isinstance(one, Mapping) else {"optimizer": one}
    scheduler = made.get("lr_scheduler")
    if scheduler is not None and not isinstance(scheduler, Mapping):
        made["lr_scheduler"] = {"scheduler": scheduler}
    return made


def _has_scheduled_lr(one: Mapping[str, Any]) -> bool:
    return isinstance((one.get("lr_scheduler") or {}).get("scheduler"), ScheduledLR)
