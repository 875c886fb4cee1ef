"""Lightning's fine-tuning callbacks, which unfreeze layers and add them to the optimizer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch.optim import Optimizer

from lit_optim.param_groups import by_role
from lit_optim.param_groups.describe import parameter_names
from lit_optim.training.needs import needs_of
from lit_optim.wrappers import Wrapper


class AddedGroups(Callback):
    """Gives groups that were added on the way their names and roles, and an lr to go on from.

    Such a group brings the lr that it is to have now, often a share of that of the first group. A
    schedule moves every group by what it makes of the group's own lr, `initial_lr`; so that is set
    such that the schedule gives the lr that was brought.

    For an optimizer that needs roles the group is divided by them. The last part is the group that
    the callback goes on to change; the lr of the others keeps its ratio to that.

    Args:
        optimizer: of the run.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._first = len(optimizer.param_groups)  # groups from here on are added
        self._known = self._first

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        groups = self.optimizer.param_groups  # a callback that goes on has put others here
        within: Any = self.optimizer
        while isinstance(within, Wrapper):
            within = within.base
            within.param_groups = groups
        self._known = len(groups)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        groups = self.optimizer.param_groups
        for parts in self._parts().values():
            for part in parts[:-1]:
                part["lr"] = parts[-1]["lr"] * part["initial_lr"] / parts[-1]["initial_lr"]
        added = groups[self._known :]
        if not added:
            return
        if "roles" in needs_of(self.optimizer):
            added = [part for group in added for part in self._divide(group, pl_module)]
            self._keep(trainer, pl_module)
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
        """The parts of each group that was divided, by its name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for group in self.optimizer.param_groups[self._first : self._known]:
            if "role" in group:
                found.setdefault(group["name"].rpartition(".")[0], []).append(group)
        return found

    def _divide(self, group: dict[str, Any], module: LightningModule) -> list[dict[str, Any]]:
        """Put groups by role in the place of one; hidden matrices come last."""
        groups = self.optimizer.param_groups
        share = group["lr"] / groups[0]["lr"] if groups[0]["lr"] else 1.0
        lrs = {other.get("role"): other["lr"] for other in groups if other is not group}
        usual = lrs.get("bias", next(iter(lrs.values())))  # of all that is no hidden matrix
        groups[:] = [other for other in groups if other is not group]
        first = len(groups)
        parts = by_role([{"name": group["name"], "params": group["params"]}], module)
        for part in sorted(parts, key=lambda part: bool(part["role"] == "hidden")):
            lr = share * lrs.get(part["role"], usual)
            self.optimizer.add_param_group(part | {"lr": lr})
        return groups[first:]

    def _keep(self, trainer: Trainer, module: LightningModule) -> None:
        """Have the callbacks keep the parts, to put them back where the run goes on."""
        names = {p: name for name, p in module.named_parameters()}
        place = next(i for i, one in enumerate(trainer.optimizers) if one is self.optimizer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, BaseFinetuning):
                kept = callback._apply_mapping_to_param_groups(self.optimizer.param_groups, names)
                callback._internal_optimizer_metadata[place] = kept
