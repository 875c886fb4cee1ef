"""Every schedule as a function of the optimizer, for code that expects a scheduler class.

    scheduler = lit_optim.lr_schedulers.cosine_warmup(optimizer, warmup="5%", steps=1000)

Such code is LightningCLI's `--lr_scheduler`, skorch's `policy`, or a `_partial_` in a configuration
of Hydra. Each function has the arguments of the schedule, then those of
`lit_optim.schedules.scheduling.schedule`. They are made from the schedules when they are used, so
there is no list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from lit_optim.hyperparameters import hints_of
from lit_optim.lazy_names import no_attribute
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.registry import argument_names, functions_by_name
from lit_optim.schedules.scheduling import schedule

MakeScheduler = Callable[..., ScheduledLR]
#: The arguments of `schedule` that every function takes too.
LENGTHS = ("steps", "steps_per_epoch", "horizon")


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(functions_by_name())
    functions = {} if name.startswith("__") else functions_by_name()
    if name not in functions:
        raise no_attribute(__name__, name, functions)
    made = globals()[name] = _make_function(name, functions[name])
    return made


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__"))
    return sorted([*own, *functions_by_name()])


def _make_function(name: str, function: Callable[..., Any]) -> MakeScheduler:
    def make_scheduler(optimizer: Optimizer, *args: Any, **kwargs: Any) -> ScheduledLR:
        lengths = {key: kwargs.pop(key) for key in LENGTHS if key in kwargs}
        return schedule(optimizer, function(*args, **kwargs), **lengths)

    make_scheduler.__module__, make_scheduler.__name__ = __name__, name
    make_scheduler.__qualname__, make_scheduler.__doc__ = name, function.__doc__
    parameters = _parameters(function)
    make_scheduler.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters, return_annotation=ScheduledLR
    )
    make_scheduler.__annotations__ = {p.name: p.annotation for p in parameters}
    make_scheduler.__annotations__["return"] = ScheduledLR
    return make_scheduler


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The optimizer, the arguments of a schedule, and those of `schedule` by keyword."""
    hints, own = hints_of(inspect.unwrap(function)), inspect.signature(function).parameters
    names = argument_names(function)
    common = [  # from `**common`
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(Schedule, name),
            annotation=hints[name],
        )
        for name in names
        if name not in own
    ]
    run, run_hints = inspect.signature(schedule).parameters, hints_of(schedule)
    return [
        run["optimizer"].replace(annotation=Optimizer),
        *(own[name].replace(annotation=hints[name]) for name in names if name in own),
        *common,
        *(run[name].replace(annotation=run_hints[name]) for name in LENGTHS),
    ]
