"""Checks the arguments of `configure_optimizers`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.lightning.lr_rule import LrRule
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.registry import is_schedule

OPTIMIZER = (
    "an optimizer class, a partial of one, such as partial(lit_optim.AdamW, lr=1e-3), or a name, "
    "such as adamw"
)
SCHEDULER = "a schedule, such as lit_optim.schedules.library.cosine_warmup(), a name, or None"
GROUPS = "a function of the module that gives its param groups, such as no_decay, or None"


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
    _check_optimizer(optimizer)
    _check_scheduler(scheduler)
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
    _check_attached(module)


def check_is_optimizer(optimizer: Any) -> None:
    """Refuse what a function has returned if it is not an optimizer.

    Raises:
        UsageError: naming what it returned.
    """
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"optimizer must be {OPTIMIZER}; called with the param groups it gave "
            f"{describe_value(optimizer)}"
        )


def describe_value(value: Any) -> str:
    """Describe a value in a few words."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, partial):
        return f"a partial of {describe_value(value.func)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '?')}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _check_attached(module: Any) -> None:
    try:
        trainer = module.trainer
    except RuntimeError:  # Lightning raises this for a module without a trainer
        trainer = None
    if trainer is None:
        raise UsageError(
            f"{type(module).__name__} is not attached to a trainer, which knows the length of the "
            "run: call configure_optimizers within the module's own configure_optimizers, which "
            "trainer.fit calls"
        )


def _check_optimizer(value: Any) -> None:
    given = describe_value(value)
    if isinstance(value, Optimizer):
        name = type(value).__name__
        given = f"an instance of {name}: give the class, as partial({name}, lr=...)"
    elif callable(value) and not (_is_schedule(value) or _is_torch_scheduler(value)):
        return
    raise UsageError(f"optimizer must be {OPTIMIZER}, got {given}")


def _check_scheduler(value: Any) -> None:
    if value is None or isinstance(value, Schedule):
        return
    given = describe_value(value)
    if _is_schedule(value):
        name = getattr(getattr(value, "func", value), "__name__", "it")
        given += f", which is not called yet: write {name}()"
    elif callable(value) or _is_torch_scheduler(value):
        given += (
            "; a torch scheduler is not taken, but those of lit_optim.compat.torch_schedules have "
            "the same names and arguments, without the optimizer"
        )
    raise UsageError(f"scheduler must be {SCHEDULER}, got {given}")


def _is_schedule(value: Any) -> bool:
    """Whether a value is a schedule, or a function that returns one."""
    return isinstance(value, Schedule) or is_schedule(getattr(value, "func", value))


def _is_torch_scheduler(value: Any) -> bool:
    kind = getattr(value, "func", value)
    kind = kind if inspect.isclass(kind) else type(kind)
    return kind.__module__ == "torch.optim.lr_scheduler"
