"""Param groups that a fine-tuning callback adds get names, roles and an initial lr."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.optim import Optimizer

from lit_optim.group_fields import group_name
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.param_groups import by_role
from lit_optim.param_groups.describe import parameter_names
from lit_optim.training.overrides import FitCallback
from lit_optim.training.requirements import requirements_of
from lit_optim.updates import innermost_optimizer
from lit_optim.wrappers import Wrapper


class AddedGroups(FitCallback):
    """Gives param groups that were added during training their names, roles and `initial_lr`.

    Such a group comes with the lr that it should have now, often a share of the first group's. A
    schedule sets the lr of a group from its `initial_lr`, which is therefore set to the value from
    which the schedule gives that lr.

    For an optimizer that needs roles the group is divided by them; it gets no second head. The
    fine-tuning callback continues to change the last part; the lrs of the other parts keep their
    ratio to it.

    Args:
        optimizer: of the run.
    """

    position = "after_finetuning"

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._first = len(optimizer.param_groups)  # later groups are added ones
        self._known = self._first

    def is_stale(self, trainer: Trainer) -> bool:
        return self.is_of_earlier_fit(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = self.optimizer.param_groups  # a resumed fine-tuning callback has put others here
        within: Any = self.optimizer
        while isinstance(within, Wrapper):
            within = within.base
            within.param_groups = groups
        self._known = len(groups)
        if "roles" in requirements_of(self.optimizer):
            # it refuses a group without roles, and a fine-tuning callback knows none
            add: Any = partial(self._add_divided, pl_module)
            self.optimizer.add_param_group = add  # type: ignore[method-assign]

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        vars(self.optimizer).pop("add_param_group", None)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        vars(self.optimizer).pop("add_param_group", None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = self.optimizer.param_groups
        for parts in self._parts().values():
            for part in parts[:-1]:
                part["lr"] = parts[-1]["lr"] * part["initial_lr"] / parts[-1]["initial_lr"]
        added = groups[self._known :]
        if not added:
            return
        if "roles" in requirements_of(self.optimizer):
            self._save_parts(trainer, pl_module)
        names, first = parameter_names(pl_module), groups[0]
        for group in added:
            if "param_names" in group:
                group["param_names"] = [names.get(p, "?") for p in group["params"]]
            share = 1.0
            if trainer.lr_scheduler_configs and first.get("initial_lr") and first["lr"]:
                share = float(first["lr"]) / float(first["initial_lr"])
            group["initial_lr"] = float(group["lr"]) / share
        self._known = len(groups)

    def _parts(self) -> dict[str, list[dict[str, Any]]]:
        """Return the parts of each group that was divided, by the name of the group."""
        parts: dict[str, list[dict[str, Any]]] = {}
        for group in self.optimizer.param_groups[self._first : self._known]:
            if "role" in group:
                parts.setdefault(group["name"].rpartition(".")[0], []).append(group)
        return parts

    def _add_divided(self, module: LightningModule, group: dict[str, Any]) -> None:
        """Add a group as one for each role; hidden matrices come last."""
        add, groups = type(self.optimizer).add_param_group, self.optimizer.param_groups
        if "role" in group:
            add(self.optimizer, group)
            return
        first_lr, name = groups[0]["lr"], group_name(group, len(groups))
        share = group["lr"] / first_lr if first_lr and "lr" in group else 1.0
        lrs = {other.get("role"): other["lr"] for other in groups}
        default_lr = lrs.get("bias", first_lr)  # of everything but hidden matrices
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        # beside a head, the group is of a backbone without one: it is described as while frozen
        unfrozen = [p for p in params if p.requires_grad] if "head" in lrs else []
        for p in unfrozen:
            p.requires_grad_(False)
        try:
            parts = by_role([group | {"name": name, "params": params}], module)
        finally:
            for p in unfrozen:
                p.requires_grad_(True)
        for part in sorted(parts, key=lambda part: bool(part["role"] == "hidden")):
            lr = share * lrs.get(part["role"], default_lr)
            add(self.optimizer, part | {"lr": lr})

    def _save_parts(self, trainer: Trainer, module: LightningModule) -> None:
        """Let the fine-tuning callbacks save the parts, which a resumed run restores."""
        names = {p: name for name, p in module.named_parameters()}
        place = next(i for i, other in enumerate(trainer.optimizers) if other is self.optimizer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if is_a(callback, "callbacks.BaseFinetuning"):
                saved = callback._apply_mapping_to_param_groups(self.optimizer.param_groups, names)
                callback._internal_optimizer_metadata[place] = saved


def name_added_groups(optimizer: Optimizer, module: nn.Module) -> None:
    """Let code that knows no names add groups to an optimizer of another package.

    torch's `add_param_group` refuses a group without `param_names` beside groups that have them, as
    those of lit_optim have. Such a group gets the names of the module.

    Args:
        optimizer: whose groups may have names; changed.
        module: with its parameters.
    """
    innermost = innermost_optimizer(optimizer)
    has_names = any("param_names" in group for group in innermost.param_groups)
    if isinstance(innermost, OptimizerBase) or not has_names:
        return
    weak_optimizer, weak_module = ref(innermost), ref(module)

    def add_named(param_group: dict[str, Any]) -> None:
        target, owner = weak_optimizer(), weak_module()
        assert target is not None
        params = param_group["params"] if isinstance(param_group, dict) else None
        if owner is not None and params is not None and not isinstance(params, set):
            params = param_group["params"] = [params] if isinstance(params, Tensor) else [*params]
            if all(isinstance(p, Tensor) for p in params):
                names = parameter_names(owner)
                param_group.setdefault("param_names", [names.get(p, "?") for p in params])
        type(target).add_param_group(target, param_group)

    innermost.add_param_group = add_named  # type: ignore[method-assign]
