"""Gives any LightningModule an optimizer and a schedule."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_optim.callbacks.added_groups import AddedGroups, name_added_groups
from lit_optim.callbacks.averaged_weights import Averaging, average_weights
from lit_optim.callbacks.ddp_rewrapping import RewrapDDP
from lit_optim.callbacks.lazy_layers import initialize_lazy_layers
from lit_optim.callbacks.observer import MetricObserver
from lit_optim.callbacks.parameter_coverage import ParameterCoverage
from lit_optim.callbacks.schedule_lengths import ScheduleLengths
from lit_optim.errors import UsageError, describe_value
from lit_optim.lightning.arguments import (
    AnyOptimizer,
    AnyScheduler,
    check_arguments,
    check_attached,
    read_optimizer,
    read_scheduler,
    read_share,
)
from lit_optim.lightning.building import build_optimizer, check_ready_made
from lit_optim.lightning.finetuning import has_finetuning
from lit_optim.lightning.lr_rule import LrRule
from lit_optim.lightning.parts import read_part
from lit_optim.lightning.torch_schedulers import TorchScheduler, as_lightning_expects
from lit_optim.lightning_classes import AnyLightningModule, LightningModule, Trainer, is_a, variants
from lit_optim.param_groups import MakeGroups, no_decay
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import Curve, MonitoredMetric
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.given import make_scheduler
from lit_optim.schedules.hyperparameter_schedules import (
    HyperparameterSchedule,
    parse_hyperparameter_schedules,
)
from lit_optim.schedules.library import constant
from lit_optim.training.lengths import ONE_PER_BATCH, Share, global_batch, horizon_of
from lit_optim.training.monitor import resolve_monitor
from lit_optim.training.overrides import FitCallback, attach_callbacks, require_sanity_check
from lit_optim.training.requirements import check_requirements

LOG = logging.getLogger("lit_optim")


@dataclass(frozen=True)
class OptimizerSetup:
    """An optimizer that is ready to train, and what has to go along with it.

    Args:
        optimizer: of the module.
        scheduler: of its lr and of other hyperparameters; None: all stay constant, or a scheduler
            of torch sets the lr.
        callbacks: without which the optimizer or the schedule would not work in this fit.
        scheduler_config: of the scheduler, as Lightning takes it.
    """

    optimizer: Optimizer
    scheduler: ScheduledLR | None
    callbacks: tuple[FitCallback, ...]
    scheduler_config: Mapping[str, Any] | None = None

    def as_lightning_expects(self) -> dict[str, Any]:
        """Return what `LightningModule.configure_optimizers` returns."""
        if self.scheduler_config is None:
            return {"optimizer": self.optimizer}
        return {"optimizer": self.optimizer, "lr_scheduler": dict(self.scheduler_config)}


def configure_optimizers(
    module: AnyLightningModule,
    optimizer: AnyOptimizer,
    scheduler: AnyScheduler | None = None,
    param_groups: MakeGroups | None = None,
    lr_rule: LrRule | None = None,
    schedules: Mapping[str, Any] | None = None,
    horizon: HorizonPolicy = "error",
    *,
    of: nn.Module | Tensor | Iterable[nn.Module | Tensor] | None = None,
    steps: int | None = None,
    updates_per_batch: float | None = None,
) -> dict[str, Any]:
    """Return what `LightningModule.configure_optimizers` of a module with a trainer returns.

        def configure_optimizers(self):
            return lit_optim.configure_optimizers(self, partial(AdamW, lr=3e-4), cosine_warmup())

    The schedule follows the updates of the optimizer (docs/updates.md), never epochs. It does so in
    manual optimization too, where no code of yours steps it. A module with several optimizers calls
    this function for each of them, with the part of the module that it is `of`. An optimizer or a
    schedule may be given by its name on the command line; it then has its defaults.

    The callbacks that the optimizer or the schedule needs are added to the trainer;
    `set_up_optimizer` returns them instead.

    Args:
        module: attached to a trainer, whose length the schedule gets.
        optimizer: called with the param groups; or a name, "adamw", or {"name": "adamw", "lr":
            1e-3}; or an optimizer, which keeps its groups.
        scheduler: from `lit_optim.schedules.library`; or a name, or {"name": "cosine_warmup",
            "warmup": "5%"}; or a scheduler of torch, as in partial(StepLR, step_size=10), which
            Lightning steps after every epoch (OneCycleLR and CyclicLR: after every batch); None: a
            constant lr.
        param_groups: module -> groups. By default norms, biases and other 1-D parameters have no
            weight decay. For an optimizer that needs roles the groups are divided by role. If a
            `BaseFinetuning` callback adds what it unfreezes, they leave out frozen parameters.
        lr_rule: from `lit_optim.lightning.lr_rule`; scales the lr by the global batch size.
        schedules: of other hyperparameters, as in
            {"weight_decay": "lr", "betas.0": [{"shape": "linear", "from": 0.85, "to": 0.95}]}.
        horizon: if a resumed run has another length than before and the schedule depends on it,
            "error" refuses, "keep" continues over the old length, "extend" continues at the same
            update of a schedule over the new length.
        of: the part of the module that the optimizer is for: a submodule, such as
            `self.generator`, or a list of submodules or parameters. Groups and names are those of
            the whole module; a submodule is a network of its own, with its own head. Parameters
            that belong to no optimizer or to several are warned of.
        steps: the number of updates that the optimizer makes in the run, where it is not one for
            each batch and the trainer cannot know it.
        updates_per_batch: the same per batch, in manual optimization, such as 1/5 for a generator
            that is updated after every fifth batch. The default is 1. `max_steps` of the trainer
            counts the updates of all optimizers and is divided by these numbers.

    Raises:
        UsageError: an unknown name, no trainable parameter, a schedule that does not fit or whose
            floor is above the lr, a run of unknown length, a run without what the optimizer
            requires, or an argument of the wrong type.
    """
    setup = set_up_optimizer(
        module, optimizer, scheduler, param_groups, lr_rule, schedules, horizon,
        of=of, steps=steps, updates_per_batch=updates_per_batch,
    )  # fmt: skip
    trainer = cast(LightningModule, module).trainer
    attach_callbacks(trainer, setup.callbacks)
    if setup.scheduler is not None and setup.scheduler.curve.metric is not None:
        require_sanity_check(trainer)
    return setup.as_lightning_expects()


def set_up_optimizer(
    module: AnyLightningModule,
    optimizer: AnyOptimizer,
    scheduler: AnyScheduler | None = None,
    param_groups: MakeGroups | None = None,
    lr_rule: LrRule | None = None,
    schedules: Mapping[str, Any] | None = None,
    horizon: HorizonPolicy = "error",
    *,
    of: nn.Module | Tensor | Iterable[nn.Module | Tensor] | None = None,
    steps: int | None = None,
    updates_per_batch: float | None = None,
) -> OptimizerSetup:
    """Make the optimizer and its schedule; the arguments are those of `configure_optimizers`.

    Raises:
        UsageError: as `configure_optimizers`.
    """
    check_arguments(module, optimizer, scheduler, param_groups, lr_rule, schedules)
    module = cast(LightningModule, module)
    make, wanted = read_optimizer(optimizer), read_scheduler(scheduler)
    check_attached(module)
    trainer = module.trainer
    callbacks: list[FitCallback] = []
    if is_a(trainer.strategy, "strategies.DDPStrategy"):
        callbacks.append(RewrapDDP(module))
    initialize_lazy_layers(module)
    if isinstance(make, Optimizer):
        made = make
        check_ready_made(made, module, {"param_groups": param_groups, "of": of, "lr_rule": lr_rule})
    else:
        part = None if of is None else read_part(module, of)
        groups = (param_groups or no_decay)(module)
        made = build_optimizer(make, part.restrict(groups) if part else groups, module,
                               part.networks if part else ())  # fmt: skip
    name_added_groups(made, module)
    if has_finetuning(trainer):
        callbacks.append(AddedGroups(made))
    if lr_rule is not None:
        scale_lr(made, lr_rule, trainer)
    if isinstance(made, Averaging):
        callbacks.append(average_weights(module, made))
    if of is not None or isinstance(make, Optimizer) or not module.automatic_optimization:
        callbacks.append(ParameterCoverage())
    attached: LRScheduler | None = None
    settings: Mapping[str, Any] = {}
    if wanted is not None and not isinstance(wanted, Schedule):
        given = wanted.given if isinstance(wanted, TorchScheduler) else wanted
        settings = wanted.settings if isinstance(wanted, TorchScheduler) else {}
        found = make_scheduler(given, made, "scheduler")
        wanted, attached = (found, None) if isinstance(found, Schedule) else (None, found)
    share = read_share(module, wanted, steps, updates_per_batch)
    curve = None
    if wanted is not None:
        wanted.check(max(float(group["lr"]) for group in made.param_groups))
        curve = curve_over_run(wanted, module, share)
    check_requirements(module, made, curve)
    if attached is None:
        adapter = _schedule_optimizer(
            module, made, curve, parse_hyperparameter_schedules(schedules or {}), horizon, share
        )
    else:
        adapter = attached if isinstance(attached, ScheduledLR) else None
        _check_alone(attached, schedules, steps)
        share = Share(steps=adapter.curve.total) if adapter is not None else share
    if adapter is not None:
        # Lightning calls it after a step that a loss scaler has skipped
        adapter.warns_about_order = False
        if not module.automatic_optimization:
            adapter.step_after_updates()
        callbacks.append(ScheduleLengths(adapter, share))
        if adapter.curve.metric is not None:
            callbacks.append(MetricObserver(adapter))
    torchs = adapter or attached
    config = None if torchs is None else as_lightning_expects(torchs, settings, module)
    return OptimizerSetup(made, adapter, tuple(callbacks), config)


def _check_alone(
    scheduler: LRScheduler, schedules: Mapping[str, Any] | None, steps: int | None
) -> None:
    """Refuse arguments that need a schedule of lit_optim beside another scheduler."""
    for name, value in (("schedules", schedules), ("steps", steps)):
        if value:
            raise UsageError(
                f"{name} needs a schedule of lit_optim, and scheduler is "
                f"{describe_value(scheduler)}; lit_optim.compat.torch_schedules has torch's, "
                "without the optimizer"
            )


def _schedule_optimizer(
    module: LightningModule,
    optimizer: Optimizer,
    curve: Curve | None,
    schedules: Sequence[HyperparameterSchedule],
    horizon: HorizonPolicy,
    share: Share,
) -> ScheduledLR | None:
    if curve is None and not schedules:
        return None
    steady, trainer = constant(), module.trainer
    hyperparameters = [one.attach(_curve_of(one, trainer, share), optimizer) for one in schedules]
    if curve is None and (following := [one.path for one in schedules if one.schedule is None]):
        raise UsageError(f"{following[0]}=lr: there is no scheduler whose lr it could follow")
    curve = curve or steady.curve(horizon_of(trainer, steady, share))
    return ScheduledLR(optimizer, curve, hyperparameters, horizon)


class OptimizerMixin:
    """For a LightningModule whose constructor takes `optimizer`, `scheduler` and `param_groups`.

        class Net(OptimizerMixin, LightningModule):
            def __init__(self, width, optimizer, scheduler=None, param_groups=None):
                super().__init__()
                self.save_hyperparameters()
                self.optimizer, self.scheduler = optimizer, scheduler
                self.param_groups = param_groups

    They are not saved in `hparams`, so that a checkpoint holds plain values only and can be loaded.
    The other attributes are arguments of `configure_optimizers` as well. The LightningModule may be
    that of `lightning.pytorch` or of `pytorch_lightning`.

    Raises:
        UsageError: a class has a LightningModule before this one among its bases.
    """

    optimizer: AnyOptimizer
    scheduler: AnyScheduler | None = None
    param_groups: MakeGroups | None = None
    lr_rule: LrRule | None = None
    schedules: Mapping[str, Any] | None = None
    horizon: HorizonPolicy = "error"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        modules = variants("LightningModule")
        if not issubclass(cls, modules):  # this class alone is enough
            cls.__bases__ = (*cls.__bases__, LightningModule)
        first = next(base for base in cls.__mro__ if base in (OptimizerMixin, *modules))
        if first is not OptimizerMixin:
            raise UsageError(
                f"{cls.__name__}: OptimizerMixin comes before the LightningModule, as in "
                "class Net(OptimizerMixin, LightningModule)"
            )

    def configure_optimizers(self) -> Any:
        """Called by Lightning."""
        if not hasattr(self, "optimizer"):
            raise UsageError(
                f"{type(self).__name__} has no optimizer: its constructor sets self.optimizer, "
                "such as partial(lit_optim.AdamW, lr=1e-3)"
            )
        parts = self.optimizer, self.scheduler, self.param_groups, self.lr_rule, self.schedules
        # a model's own attribute of this name is not ours, such as that of a forecast
        horizon = self.horizon if isinstance(self.horizon, str) else "error"
        return configure_optimizers(cast(LightningModule, self), *parts, horizon)

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: Any = None,
        **kwargs: Any,
    ) -> None:
        """Save the hyperparameters as Lightning does, without these arguments."""
        ignored = [ignore] if isinstance(ignore, str) else list(ignore or ())
        ignored += ["optimizer", "scheduler", "param_groups", "lr_rule", "schedules"]
        here = inspect.currentframe()
        frame = frame or (here.f_back if here else None)
        super().save_hyperparameters(*args, ignore=ignored, frame=frame, **kwargs)  # type: ignore[misc]


def _curve_of(moving: HyperparameterSchedule, trainer: Trainer, share: Share) -> Curve | None:
    """Return the curve of a hyperparameter over the run; None if it follows the lr."""
    if moving.schedule is None:
        return None
    try:
        return moving.schedule.curve(horizon_of(trainer, moving.schedule, share))
    except UsageError as error:
        raise UsageError(f"{moving.path}.{error}") from None


def scale_lr(optimizer: Optimizer, rule: LrRule, trainer: Trainer) -> None:
    """Multiply the lr of every group as the rule says, and log it.

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
        group["lr"] = factor * group["lr"]  # groups may share an lr that is a tensor
    share = f"{batch} / {rule.base}"
    share = f"sqrt({share})" if rule.name == "sqrt" else share
    lr = optimizer.param_groups[0]["lr"]
    if trainer.is_global_zero and factor == 1:
        LOG.info(
            f"lr_rule={rule.name}: lr = {lr:g}, factor 1: the global batch is its base, {batch}"
        )
    elif trainer.is_global_zero:
        LOG.info(f"lr_rule={rule.name}: lr = {before:g} x {share} = {lr:g}, by the global batch")


def curve_over_run(
    scheduler: Schedule, module: LightningModule, share: Share = ONE_PER_BATCH
) -> Curve:
    """Return the curve of a schedule over the run, following the metric that the module declares.

    Args:
        scheduler: of an optimizer.
        module: attached to its trainer.
        share: of that optimizer.

    Raises:
        UsageError: as `configure_optimizers`.
    """
    metric = scheduler.metric
    if metric is not None:
        # a direction that stays None is known when the metric is logged
        monitor, mode = resolve_monitor(module, metric.monitor, metric.mode)
        scheduler = scheduler.with_metric(MonitoredMetric(monitor, mode, metric.every))
    return scheduler.curve(horizon_of(module.trainer, scheduler, share))
