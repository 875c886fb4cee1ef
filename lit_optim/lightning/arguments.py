"""Reads the arguments of `configure_optimizers`: what is meant is taken, the rest is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_optim.errors import UsageError, describe_value, first_line, show, suggest
from lit_optim.hyperparameters import plain
from lit_optim.lightning.lr_rule import LrRule
from lit_optim.lightning.torch_schedulers import TorchScheduler, is_torch_scheduler
from lit_optim.lightning_classes import LightningModule, package_of
from lit_optim.making import optimizer_class, read_optimizer_config, reject_target
from lit_optim.optimizers import find_optimizer
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.registry import find_schedule, is_schedule, schedules_by_name
from lit_optim.training.lengths import Share
from lit_optim.wrappers import Wrapper

LOG = logging.getLogger("lit_optim")

OPTIMIZER = (
    "an optimizer class, a partial of one, such as partial(lit_optim.AdamW, lr=1e-3), an optimizer "
    "of the module's parameters, or a name, such as adamw"
)
SCHEDULER = (
    "a schedule, such as lit_optim.schedules.library.cosine_warmup(), a scheduler of torch, such "
    "as partial(StepLR, step_size=10), a name, or None"
)
GROUPS = "a function of the module that gives its param groups, such as no_decay, or None"

#: A function of param groups that returns an optimizer.
MakeOptimizer = Callable[[Any], Optimizer]
#: A function of an optimizer that returns its scheduler.
MakeScheduler = Callable[[Optimizer], Any]
#: What `configure_optimizers` takes as an optimizer, and as a scheduler.
AnyOptimizer = MakeOptimizer | Optimizer | Mapping[str, Any] | str
AnyScheduler = (
    Schedule | Callable[..., Schedule] | LRScheduler | MakeScheduler | Mapping[str, Any] | str
)


def check_arguments(
    module: Any, optimizer: Any, scheduler: Any, param_groups: Any, lr_rule: Any, schedules: Any
) -> None:
    """Refuse wrong arguments, each with its own message, before they are used.

    Raises:
        UsageError: naming the argument, what was given and what is allowed.
    """
    if not (isinstance(module, nn.Module) and hasattr(type(module), "trainer")):
        raise UsageError(
            "configure_optimizers(module, optimizer, scheduler): module must be a LightningModule, "
            f"such as self, got {describe_value(module)}"
        )
    if _is_schedule(optimizer) and not _is_schedule(scheduler) and scheduler is not None:
        raise UsageError(
            "configure_optimizers(module, optimizer, scheduler): optimizer is "
            f"{describe_value(optimizer)} and scheduler is {describe_value(scheduler)}; they are "
            "in the wrong order"
        )
    if param_groups is not None and not callable(param_groups):
        raise UsageError(f"param_groups must be {GROUPS}, got {describe_value(param_groups)}")
    if lr_rule is not None and not isinstance(lr_rule, LrRule):
        raise UsageError(
            "lr_rule must be one of lit_optim.lightning.lr_rule, such as linear(), or None, got "
            f"{describe_value(lr_rule)}"
        )
    if schedules is not None and not isinstance(schedules, Mapping):
        raise UsageError(
            "schedules must map hyperparameters to schedules, such as {'weight_decay': 'lr'}, got "
            f"{describe_value(schedules)}"
        )


def check_attached(module: LightningModule) -> None:
    """Refuse a module without a trainer.

    Raises:
        UsageError: it has none, or one of another package.
    """
    try:
        trainer = module.trainer
    except RuntimeError:  # Lightning raises this for a module without a trainer
        trainer = None
    name = type(module).__name__
    if trainer is None:
        raise UsageError(
            f"{name} is not attached to a trainer, which knows the length of the "
            "run: call configure_optimizers within the module's own configure_optimizers, which "
            "trainer.fit calls"
        )
    packages = package_of(type(module)), package_of(type(trainer))
    if None not in packages and len(set(packages)) == 2:
        raise UsageError(
            f"{name} is a LightningModule of {packages[0]}, and its Trainer one of {packages[1]}: "
            "import both from the same package"
        )


def read_optimizer(value: Any) -> MakeOptimizer | Optimizer:
    """Return a function of param groups, or an optimizer that was made already.

    Args:
        value: one of these, a name, or a mapping with the name and hyperparameters, as in
            {"name": "adamw", "lr": 1e-3}.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(value, str):
        found: MakeOptimizer = find_optimizer(value)
        LOG.info(f"{found.__name__}: chosen by name, with its defaults")
        return found
    if isinstance(value, Mapping):
        return read_optimizer_config(value, OPTIMIZER)
    if isinstance(value, Optimizer):
        return value
    kind = optimizer_class(value)
    if isinstance(kind, type) and issubclass(kind, Wrapper):
        raise UsageError(
            f"optimizer: {kind.__name__} wraps an optimizer, as in lambda groups: "
            f"{kind.__name__}(lit_optim.AdamW(groups)), got {describe_value(value)}"
        )
    is_module = isinstance(value, nn.Module)  # it can be called, but gives no optimizer
    if callable(value) and not (is_module or _is_schedule(value) or is_torch_scheduler(value)):
        make: MakeOptimizer = value
        return make
    raise UsageError(f"optimizer must be {OPTIMIZER}, got {describe_value(value)}")


def read_scheduler(value: Any) -> Schedule | TorchScheduler | MakeScheduler | None:
    """Return a schedule, a scheduler of torch, or a function of the optimizer that gives one.

    Args:
        value: one of these; a name; a mapping with the name and arguments, as in
            {"name": "cosine_warmup", "warmup": "5%"}; or a function that returns a schedule.

    Raises:
        UsageError: it is none of these.
    """
    if value is None or isinstance(value, Schedule):
        return value
    if isinstance(value, str):
        LOG.info(f"{value}: schedule chosen by name, with its defaults")
        return find_schedule(value)
    if isinstance(value, Mapping):
        return _read_scheduler_config(value)
    if _is_schedule(value):
        return _call_schedule(value)
    if is_torch_scheduler(value):
        return TorchScheduler(value)
    if callable(value) and not isinstance(value, type | Optimizer | nn.Module):
        make: MakeScheduler = value
        return make
    raise UsageError(f"scheduler must be {SCHEDULER}, got {describe_value(value)}")


def read_share(
    module: LightningModule, scheduler: Any, steps: Any, updates_per_batch: Any
) -> Share:
    """Read what the user says about the updates of an optimizer.

    Args:
        module: attached to its trainer.
        scheduler: a schedule, or something else.
        steps: the updates in the run, or None.
        updates_per_batch: a number, or None.

    Raises:
        UsageError: one of them is wrong, or contradicts the trainer or the schedule.
    """
    steps, rate = plain(steps), plain(updates_per_batch)
    if steps is not None and (type(steps) is not int or steps < 1):
        raise UsageError(f"steps must be a whole number of updates > 0, got {show(steps)}")
    if steps is not None and getattr(scheduler, "total", None) is not None:
        raise UsageError(
            f"steps={steps} and total={scheduler.total} of the schedule are both its length: give "
            "only one of them"
        )
    if rate is None:
        return Share(steps)
    if type(rate) not in (int, float, Fraction) or not 0 < rate < float("inf"):
        raise UsageError(f"updates_per_batch must be a number > 0, such as 1/5, got {show(rate)}")
    if module.automatic_optimization:
        raise UsageError(
            f"updates_per_batch={rate:g} is for manual optimization; in automatic optimization "
            "the trainer's accumulate_grad_batches sets it"
        )
    return Share(steps, Fraction(rate).limit_denominator(10**6))


def _read_scheduler_config(config: Mapping[Any, Any]) -> Schedule | TorchScheduler | MakeScheduler:
    reject_target("scheduler", config)
    settings = {str(key): value for key, value in config.items()}
    if "scheduler" not in settings:  # else it is as Lightning takes it
        return _build_schedule(settings.pop("name", None), settings)
    inner = read_scheduler(settings.pop("scheduler"))
    if isinstance(inner, TorchScheduler):
        return TorchScheduler(inner.given, {**inner.settings, **settings})
    if inner is None or not callable(inner) or isinstance(inner, Schedule):
        return inner  # type: ignore[return-value]
    return TorchScheduler(inner, settings)


def _build_schedule(name: Any, arguments: Mapping[str, Any]) -> Schedule:
    functions = schedules_by_name()
    if not isinstance(name, str) or name not in functions:
        near = suggest(name, functions) if isinstance(name, str) else ""
        raise UsageError(
            'scheduler must be a schedule such as {"name": "cosine_warmup", "warmup": "5%"}, '
            f"got {describe_value(name)} as its name{near}"
        )
    return _call_schedule(partial(functions[name], **arguments))


def _call_schedule(function: Callable[..., Any]) -> Schedule:
    """Call a schedule that was given without its brackets."""
    try:
        made: Schedule = function()
    except TypeError as error:
        name = getattr(getattr(function, "func", function), "__name__", "it")
        raise UsageError(f"scheduler: {name} is not called yet, and {first_line(error)}") from None
    return made


def _is_schedule(value: Any) -> bool:
    """Whether a value is a schedule, or a function that returns one."""
    return isinstance(value, Schedule) or is_schedule(getattr(value, "func", value))
