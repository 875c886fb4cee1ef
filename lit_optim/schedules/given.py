"""What may be given as a schedule: one, its name, or the function that makes it."""

from __future__ import annotations

import inspect
from typing import Any

from lit_optim.errors import UsageError, describe_value
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.registry import find_schedule, is_schedule

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
