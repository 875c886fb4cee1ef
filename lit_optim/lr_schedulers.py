"""Every schedule as a class of torch schedulers, for code that expects one.

    scheduler = lit_optim.lr_schedulers.cosine_warmup(optimizer, warmup="5%", steps=1000)

Such code is LightningCLI's `--lr_scheduler`, skorch's `policy`, or a `_partial_` in a configuration
of Hydra. Each class takes the optimizer, the arguments of the schedule, then those of
`lit_optim.schedules.scheduling.schedule`, whose `ScheduledLR` it returns. They are made from the
schedules when they are used, so there is no list.
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
from lit_optim.schedules.scheduling import RUN_ARGUMENTS, NamedSchedule, schedule


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(functions_by_name())
    functions = {} if name.startswith("__") else functions_by_name()
    if name not in functions:
        raise no_attribute(__name__, name, functions)
    made = globals()[name] = _make_class(name, functions[name])
    return made


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__"))
    return sorted([*own, *functions_by_name()])


def _make_class(name: str, function: Callable[..., Any]) -> type[ScheduledLR]:
    def __new__(cls: type, optimizer: Optimizer, *args: Any, **kwargs: Any) -> ScheduledLR:
        of_run = {key: kwargs.pop(key) for key in RUN_ARGUMENTS if key in kwargs}
        return schedule(optimizer, function(*args, **kwargs), **of_run)

    cls, parameters = (
        inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY),
        _parameters(function),
    )
    __new__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [cls, *parameters], return_annotation=ScheduledLR
    )
    annotations = {p.name: p.annotation for p in parameters} | {"return": ScheduledLR}
    fields = {"__new__": __new__, "__module__": __name__, "__doc__": function.__doc__}
    return type(name, (NamedSchedule,), fields | {"__annotations__": annotations})


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
        *(run[name].replace(annotation=run_hints[name]) for name in RUN_ARGUMENTS),
    ]
