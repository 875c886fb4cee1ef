"""An optimizer and a schedule into any LightningModule."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lit_optim.callbacks.averaged import Averaging, average
from lit_optim.callbacks.ddp_rewrapping import follow_frozen
from lit_optim.callbacks.lazy_layers import initialize_lazy_layers
from lit_optim.callbacks.observer import follow
from lit_optim.callbacks.schedule_lengths import watch_length
from lit_optim.errors import UsageError
from lit_optim.lightning.arguments import check_arguments, check_made
from lit_optim.lightning.finetuning import adjust_added_groups, is_finetuned, keep_trainable
from lit_optim.lightning.lr_rule import LrRule
from lit_optim.lightning.making import make_optimizer, optimizer_class
from lit_optim.optimizers import find_optimizer
from lit_optim.param_groups import MakeGroups, by_role, no_decay
from lit_optim.schedules.adapter import OtherLength, ScheduledLR
from lit_optim.schedules.combinators import find_schedule
from lit_optim.schedules.core import Curve, Follow, Schedule
from lit_optim.schedules.hyperparameter_schedules import Moved, Moving, movings
from lit_optim.schedules.library import constant
from lit_optim.training.lengths import global_batch, horizon_of
from lit_optim.training.monitor import declared_monitor
from lit_optim.training.needs import heed, needs_of, refuse_run
from lit_optim.wrappers import unwrap

LOG = logging.getLogger("lit_optim")

#: A class, or a partial of one, that makes an optimizer of param groups.
MakeOptimizer = Callable[[Any], Optimizer]


def configure_optimizers(
    module: LightningModule,
    optimizer: MakeOptimizer | str,
    scheduler: Schedule | str | None = None,
    param_groups: MakeGroups | None = None,
    lr_rule: LrRule | None = None,
    schedules: Mapping[str, Any] | None = None,
    horizon: OtherLength = "error",
) -> dict[str, Any]:
    """What `LightningModule.configure_optimizers` returns, for a module attached to a trainer.

        def configure_optimizers(self):
            return lit_optim.configure_optimizers(self, partial(AdamW, lr=3e-4), cosine_warmup())

    The schedule follows the updates that the optimizer makes (docs/updates.md), never epochs; also
    in manual optimization, where nobody steps it, and with several optimizers: call this for each
    of them. Optimizer and schedule may be given by the names that they have on the command line,
    with their defaults.

    Args:
        module: its trainer tells the length of the run.
        optimizer: called with the param groups; or a name, "adamw".
        scheduler: from `lit_optim.schedules.library`; or a name; None keeps the lr as it is.
        param_groups: module -> groups; by default norms, biases and 1-D parameters are not decayed.
            For an optimizer that needs roles they are divided by them. Where a `BaseFinetuning`
            callback adds what it unfreezes, they hold what is not frozen.
        lr_rule: the lr by the global batch, from `lit_optim.lightning.lr_rule`; None leaves it.
        schedules: of other hyperparameters, as `schedules.moved.movings` reads them:
            {"weight_decay": "lr", "betas.0": [{"shape": "linear", "from": 0.85, "to": 0.95}]}.
        horizon: where a run that is resumed has another length than it had, and the schedule
            depends on it: "error" refuses, "keep" goes on with the old length, "extend" goes on
            at the same update of a schedule over the new length.

    Raises:
        ValueError: an unknown name, nothing to train, a schedule that does not fit or has a floor
            above the lr, a run of unknown length, one that cannot give the optimizer what it
            needs, or an argument that is something else than is asked for.
    """
    make: MakeOptimizer = find_optimizer(optimizer) if isinstance(optimizer, str) else optimizer
    if isinstance(scheduler, str):
        scheduler = find_schedule(scheduler)
    check_arguments(module, make, scheduler, param_groups, lr_rule, schedules)
    follow_frozen(module.trainer, module)
    initialize_lazy_layers(module)
    groups = (param_groups or no_decay)(module)
    if "roles" in needs_of(make):
        refuse_run(needs_of(make), optimizer_class(make).__name__, module.trainer)
        groups = by_role(groups, module)
    if is_finetuned(module.trainer):
        groups = keep_trainable(groups)
    made = make_optimizer(make, groups)
    check_made(made)
    if "roles" in needs_of(unwrap(made)) and "roles" not in needs_of(make):
        _check_roles(made, groups, module)
    if is_finetuned(module.trainer):
        adjust_added_groups(module.trainer, made)
    if lr_rule is not None:
        scale_lr(made, lr_rule, module.trainer)
    if isinstance(made, Averaging):
        average(module, made)
    curve = None
    if scheduler is not None:
        scheduler.check(max(group["lr"] for group in made.param_groups))
        curve = fitted(scheduler, module)
    heed(module, made, curve)
    asked = movings(schedules or {})
    if curve is None and not asked:
        return {"optimizer": made}
    steady = constant()
    moved = [Moved(one, _fitted_other(one, module.trainer), made) for one in asked]
    if curve is None and (following := [one.path for one in asked if one.schedule is None]):
        raise UsageError(f"{following[0]}=lr: there is no scheduler whose lr it could follow")
    curve = curve or steady.curve(horizon_of(module.trainer, steady))
    adapter = ScheduledLR(made, curve, moved, horizon)
    adapter.checks_order = False  # Lightning calls it after a step that a loss scaler has skipped
    if not module.automatic_optimization:
        adapter.follow_updates()
    watch_length(module.trainer, adapter)
    if adapter.curve.follows is not None:
        follow(module.trainer, adapter)
    return {
        "optimizer": made,
        "lr_scheduler": {
            "scheduler": adapter,
            "interval": "step",
            "frequency": 1,
            "name": "lr",
        },
    }


def _check_roles(made: Optimizer, groups: list[dict[str, Any]], module: LightningModule) -> None:
    """Refuse an optimizer of hidden matrices that a function has made from groups without roles."""
    name = type(unwrap(made)).__name__
    without = not any("role" in group for group in made.param_groups)
    others = [group for group in by_role(groups, module) if group["role"] != "hidden"]
    if without and others:
        first = (others[0].get("param_names") or ["a parameter"])[0]
        raise UsageError(
            f"{name} takes hidden matrices, and {first} is none: the function that makes it was "
            f"given no roles; pass partial({name}, ...) or {name} itself, or divide the groups "
            "with lit_optim.param_groups.by_role"
        )


class OptimizerMixin(LightningModule):
    """For a LightningModule whose constructor takes `optimizer`, `scheduler` and `param_groups`.

        class Net(OptimizerMixin, LightningModule):
            def __init__(self, width, optimizer, scheduler=None, param_groups=None):
                super().__init__()
                self.save_hyperparameters()
                self.optimizer, self.scheduler = optimizer, scheduler
                self.param_groups = param_groups

    All stay out of `hparams`: a checkpoint holds plain values only, and so it can be loaded.
    """

    optimizer: MakeOptimizer | str
    scheduler: Schedule | str | None = None
    param_groups: MakeGroups | None = None
    lr_rule: LrRule | None = None
    schedules: Mapping[str, Any] | None = None

    def configure_optimizers(self) -> Any:
        """Called by Lightning."""
        parts = self.optimizer, self.scheduler, self.param_groups, self.lr_rule, self.schedules
        return configure_optimizers(self, *parts)

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: Any = None,
        **kwargs: Any,
    ) -> None:
        """As in Lightning, without these."""
        ignored = [ignore] if isinstance(ignore, str) else list(ignore or ())
        ignored += ["optimizer", "scheduler", "param_groups", "lr_rule", "schedules"]
        here = inspect.currentframe()
        frame = frame or (here.f_back if here else None)
        super().save_hyperparameters(*args, ignore=ignored, frame=frame, **kwargs)


def _fitted_other(moving: Moving, trainer: Trainer) -> Curve | None:
    """Its schedule over the run; None: that of the lr."""
    if moving.schedule is None:
        return None
    try:
        return moving.schedule.curve(horizon_of(trainer, moving.schedule))
    except UsageError as error:
        raise UsageError(f"{moving.path}.{error}") from None


def scale_lr(optimizer: Optimizer, rule: LrRule, trainer: Trainer) -> None:
    """Multiply the lr of every group as the rule says, and tell so in a line.

    Raises:
        UsageError: the samples of an update cannot be counted.
    """
    batch = global_batch(trainer)
    if batch is None:
        raise UsageError(
            f"lr_rule={rule.name}: a loader without batch_size does not tell how many samples an "
            "update sees; use lr_rule=none"
        )
    factor, before = rule.factor(batch), optimizer.param_groups[0]["lr"]
    for group in optimizer.param_groups:
        group["lr"] *= factor
    share = f"{batch} / {rule.base}"
    share = f"sqrt({share})" if rule.name == "sqrt" else share
    lr = optimizer.param_groups[0]["lr"]
    if trainer.is_global_zero:
        LOG.info(f"lr_rule={rule.name}: lr = {before:g} x {share} = {lr:g}, by the global batch")


def fitted(scheduler: Schedule, module: LightningModule) -> Curve:
    """The schedule over the run of this module, following what the module declares.

    Raises:
        ValueError: as `configure_optimizers`.
    """
    follows = scheduler.follows
    if follows is not None:
        declared, direction = declared_monitor(module)
        monitor = follows.monitor or declared
        # None: known when it is logged
        mode = follows.mode or (direction if monitor == declared else None)
        scheduler = scheduler.following(Follow(monitor, mode, follows.every))
    return scheduler.curve(horizon_of(module.trainer, scheduler))
