"""What may be given as a schedule: one, its name, or the function that makes it."""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_optim.errors import UsageError, describe_value, first_line
from lit_optim.schedules.attach import SCHEDULER_FACTORY
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.registry import find_schedule, is_schedule
from lit_optim.updates import innermost_optimizer

SCHEDULE = "a schedule, such as lit_optim.schedules.cosine_warmup(), a name, or None"


def resolve_schedule(given: Any, argument: str) -> Schedule | None:
    """The schedule that was given.

    Args:
        given: a schedule; the name of one, or a function that makes one, which then has its
            defaults; None.
        argument: its name in messages.

    Raises:
        UsageError: it is none of these.
    """
    if given is None or isinstance(given, Schedule):
        return given
    if isinstance(given, str):
        return find_schedule(given)
    reason, kind = "", getattr(given, "func", given)
    if makes_schedule(given):
        if not (missing := _required_arguments(given)):
            made: Schedule | None = given()
            return made
        reason = f", which is not called yet: it needs {', '.join(missing)}"
    elif getattr(kind, "__module__", None) == "lit_optim.lr_schedulers":
        reason = (
            f", which takes the optimizer itself: lit_optim.schedules.{kind.__name__}() is the "
            "schedule"
        )
    elif is_torch_scheduler(given):
        reason = (
            "; lit_optim.schedules has torch's schedulers by the same names, with the same "
            "arguments but the optimizer, such as StepLR(10)"
        )
    raise UsageError(f"{argument} must be {SCHEDULE}, got {describe_value(given)}{reason}")


def make_scheduler(given: Any, optimizer: Optimizer, argument: str) -> Schedule | LRScheduler:
    """Return the schedule or the scheduler of an optimizer.

    Args:
        given: a scheduler, a class or a function of the optimizer.
        optimizer: in training.
        argument: its name in messages.

    Raises:
        UsageError: it gives something else, or a scheduler of another optimizer.
    """
    made = given
    if not isinstance(given, LRScheduler):
        token = SCHEDULER_FACTORY.set(lambda schedule, optimizer: schedule)  # the run is not theirs
        try:
            made = given(optimizer)
        except UsageError:
            raise
        except TypeError as error:
            raise UsageError(
                f"{argument}: {describe_value(given)} cannot be called with the optimizer alone "
                f"({first_line(error)}): give a partial with its arguments"
            ) from error
        finally:
            SCHEDULER_FACTORY.reset(token)
    if isinstance(made, Schedule):
        return made
    if not isinstance(made, LRScheduler):
        raise UsageError(
            f"{argument}: {describe_value(given)}, called with the optimizer, gave "
            f"{describe_value(made)}: it must give a scheduler of torch or a schedule of lit_optim"
        )
    if innermost_optimizer(made.optimizer) is not innermost_optimizer(optimizer):
        raise UsageError(
            f"{argument}: this {type(made).__name__} is of another optimizer than the one given: "
            f"give partial({type(made).__name__}, ...), or its optimizer"
        )
    return made


def makes_schedule(value: Any) -> bool:
    """Whether a value is a function that makes a schedule, or a partial of one."""
    return is_schedule(getattr(value, "func", value))


def is_torch_scheduler(value: Any) -> bool:
    """Whether a value is a scheduler for torch, its class, or a partial of its class."""
    kind = getattr(value, "func", value)
    kind = kind if inspect.isclass(kind) else type(kind)
    return any(base.__module__ == "torch.optim.lr_scheduler" for base in kind.__mro__)


def _required_arguments(function: Any) -> list[str]:
    kinds = inspect.Parameter
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is kinds.empty
        and parameter.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
