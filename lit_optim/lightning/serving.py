"""Modules that call the optimizer and the scheduler they are given, as Lightning templates do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.lightning.configure import configure_optimizers
from lit_optim.param_groups import MakeGroups, no_decay
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.core import SCHEDULER_FACTORY, Schedule
from lit_optim.wrappers import Wrapped

#: What serves the module whose configure_optimizers is being called.
SERVING: ContextVar[Serving | None] = ContextVar("SERVING", default=None)


class ServedOptimizer(Wrapped):
    """Makes an optimizer of param groups, and within a served module also of bare parameters."""

    def __call__(self, params: Any, **more: Any) -> Optimizer:
        """Made, and wrapped; bare parameters are put into groups as the run's param_groups says."""
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
    """What a module's `configure_optimizers` returns, served; see `Serving`."""
    return Serving(module, scheduler, param_groups, more).call(own)


class Serving:
    """Serves one call of a module's own `configure_optimizers`.

    Such a module does as lightning-hydra-template:

        optimizer = self.hparams.optimizer(params=self.parameters())
        scheduler = self.hparams.scheduler(optimizer=optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, ...}}

    Both are then what `lit_optim.configure_optimizers` makes of this run: the parameters in its
    groups, the schedule over its length, and stepped after every update whatever interval the
    module asks for.

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
        self._made: list[dict[str, Any]] = []

    def call(self, own: Callable[[], Any]) -> Any:
        """What the module's `configure_optimizers` returns, its schedules at every update."""
        tokens = SERVING.set(self), SCHEDULER_FACTORY.set(self.make_scheduler)
        try:
            return self._finish(own())
        finally:
            SERVING.reset(tokens[0])
            SCHEDULER_FACTORY.reset(tokens[1])

    def make_optimizer(self, make: Wrapped, params: list[Tensor]) -> Optimizer:
        """An optimizer of these parameters of the module."""

        def groups(module: Any) -> list[dict[str, Any]]:
            return list(_only(self.param_groups(module), params))

        made = configure_optimizers(self.module, make, self.scheduler, groups, **self.more)
        self._made.append(made)
        optimizer: Optimizer = made["optimizer"]
        return optimizer

    def make_scheduler(self, schedule: Schedule, optimizer: Any) -> Any:
        """The schedule of an optimizer that was made here; None where another one is meant."""
        for made in self._made:
            if made["optimizer"] is optimizer and "lr_scheduler" in made:
                return made["lr_scheduler"]["scheduler"]
        made = configure_optimizers(self.module, lambda _: optimizer, schedule, lambda _: [])
        return made["lr_scheduler"]["scheduler"]

    def _finish(self, result: Any) -> Any:
        """The same in Lightning's most explicit form, if an optimizer of ours is in it."""
        ours = {id(made["optimizer"]): made for made in self._made}
        found = [_explicit(one) for one in _listed(result)]
        if not any(id(one["optimizer"]) in ours or _is_ours(one) for one in found):
            return result
        for one in found:
            made = ours.get(id(one["optimizer"]), {})
            if "lr_scheduler" in made:
                one["lr_scheduler"] = made["lr_scheduler"]
            elif _is_ours(one):
                step = {"interval": "step", "frequency": 1, "name": "lr"}
                one["lr_scheduler"] = {"scheduler": one["lr_scheduler"]["scheduler"]} | step
        return found[0] if len(found) == 1 else tuple(found)


def _only(groups: Iterable[dict[str, Any]], params: list[Tensor]) -> Iterable[dict[str, Any]]:
    """The groups with these parameters alone; what is in none of them comes last."""
    left = dict.fromkeys(params)
    wanted = set(params)
    for group in groups:
        places = [i for i, p in enumerate(group["params"]) if p in wanted]
        kept = {k: [group[k][i] for i in places] for k in ("params", "param_names") if k in group}
        for p in kept["params"]:
            left.pop(p, None)
        if places:
            yield group | kept
    if left:
        yield {"name": "other", "params": [*left]}


def _listed(result: Any) -> list[Any]:
    """Optimizers, or mappings that say more, out of what Lightning takes."""
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


def _explicit(one: Any) -> dict[str, Any]:
    made = dict(one) if isinstance(one, Mapping) else {"optimizer": one}
    scheduler = made.get("lr_scheduler")
    if scheduler is not None and not isinstance(scheduler, Mapping):
        made["lr_scheduler"] = {"scheduler": scheduler}
    return made


def _is_ours(one: Mapping[str, Any]) -> bool:
    return isinstance((one.get("lr_scheduler") or {}).get("scheduler"), ScheduledLR)
