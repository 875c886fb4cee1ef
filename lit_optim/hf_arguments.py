"""What the Trainer of transformers is given: read, checked, completed from TrainingArguments."""

from __future__ import annotations

import ast
import inspect
import logging
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lit_optim.errors import UsageError, describe_value, show, suggest
from lit_optim.making import read_optimizer_config, reject_target
from lit_optim.optimizers import find_optimizer
from lit_optim.param_groups import MakeGroups
from lit_optim.param_groups.rules import BASES
from lit_optim.requirements import REQUIREMENTS, is_far_lr
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import MonitoredMetric
from lit_optim.schedules.given import is_torch_scheduler, make_scheduler, makes_schedule
from lit_optim.schedules.registry import argument_names, find_function
from lit_optim.wrappers import Wrapped

LOG = logging.getLogger("lit_optim")
#: An optimizer class, a partial of one, or a function of the param groups.
MakeOptimizer = Callable[[Any], Optimizer]
OPTIMIZER = (
    "an optimizer class, a partial of one, such as partial(lit_optim.AdamW, lr=1e-3), a function "
    "of the param groups, or a name, such as adamw"
)
SCHEDULE = (
    "a schedule, such as lit_optim.schedules.cosine_warmup(), a name, or a function of the "
    "optimizer that gives its scheduler, such as partial(StepLR, step_size=10)"
)
#: The values of `optim_args`, as in "momentum=0.9, betas=(0.9, 0.95)".
OPTIM_ARGS = re.compile(r"\s*(\w+)\s*=\s*(\([^)]*\)|\[[^]]*\]|[^,]*?)\s*(?:,|$)")


def read_optimizer(given: Any) -> MakeOptimizer | str | None:
    """What makes the optimizer: a function of the param groups, or a name.

    Raises:
        UsageError: it is neither, nor the configuration of an optimizer.
    """
    if isinstance(given, Mapping):
        return read_optimizer_config(given, OPTIMIZER)
    if isinstance(given, Optimizer):
        raise UsageError(
            f"optimizer must be {OPTIMIZER}, got {describe_value(given)}; an optimizer that exists "
            "goes to optimizers=(optimizer, scheduler)"
        )
    if given is None or isinstance(given, str):
        return given
    if callable(given) and not isinstance(given, Schedule) and not makes_schedule(given):
        make: MakeOptimizer = given
        return make
    raise UsageError(f"optimizer must be {OPTIMIZER}, got {describe_value(given)}")


def read_groups(given: Any) -> MakeGroups:
    """The function of a module that gives its param groups.

    Raises:
        UsageError: it is no function, and not a name of one.
    """
    if isinstance(given, str) and given in BASES:
        return BASES[given]
    if callable(given) and not isinstance(given, type | nn.Module):
        make: MakeGroups = given
        return make
    near = suggest(given, BASES) if isinstance(given, str) else ""
    raise UsageError(
        "param_groups must be a function of the model, such as lit_optim.param_groups, or one of "
        f"{', '.join(BASES)}, got {describe_value(given)}{near}"
    )


def read_schedule(given: Any) -> Schedule | Callable[..., Any] | None:
    """The schedule, the function that makes one, or a function of the optimizer.

    Raises:
        UsageError: it is none of them, nor a name or a configuration of a schedule.
    """
    if given is None or isinstance(given, Schedule):
        return given
    if isinstance(given, str):
        return find_function(given)
    if isinstance(given, Mapping):
        reject_target("schedule", given)
        arguments = {str(key): value for key, value in given.items()}
        if isinstance(name := arguments.pop("name", None), str):
            return partial(find_function(name), **arguments)
    elif isinstance(given, LRScheduler):
        raise UsageError(
            f"schedule must be {SCHEDULE}, got {describe_value(given)}; a scheduler that exists "
            "goes to optimizers=(optimizer, scheduler)"
        )
    elif callable(given) and not isinstance(given, Optimizer | nn.Module):
        kind = getattr(given, "func", given)
        if not inspect.isclass(kind) or is_torch_scheduler(given):
            make: Callable[..., Any] = given
            return make
    raise UsageError(f"schedule must be {SCHEDULE}, got {describe_value(given)}")


def complete_optimizer(make: MakeOptimizer | str, arguments: Any) -> MakeOptimizer:
    """The factory with what it is not given from TrainingArguments.

    Raises:
        UsageError: `optim_args` cannot be read, or the optimizer does not take one of them.
    """
    if isinstance(make, str):
        kind = find_optimizer(make)
        given = _read_optim_args(arguments.optim_args)
        known = inspect.signature(kind).parameters
        for key in given.keys() - known.keys():
            raise UsageError(f"optim_args: {make} takes no {key}{suggest(key, known)}")
        make = partial(kind, **given)
    if isinstance(make, Wrapped):
        return Wrapped(complete_optimizer(make.make, arguments), make.wrap)
    kind, given = getattr(make, "func", make), getattr(make, "keywords", {})
    if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
        return make
    values = {"lr": arguments.learning_rate, "weight_decay": arguments.weight_decay}
    values["adamw_weight_decay"] = arguments.weight_decay
    if "adam" in kind.__name__.lower():
        values["betas"] = (arguments.adam_beta1, arguments.adam_beta2)
        values["eps"] = arguments.adam_epsilon
    known = inspect.signature(kind).parameters
    taken = {key: values[key] for key in values if key in known and key not in given}
    lr_range = getattr(kind, "lr_range", (0.0, math.inf))
    if "lr" in taken and is_far_lr(taken["lr"], lr_range):
        LOG.warning(
            f"{kind.__name__}: learning_rate={taken['lr']:g} of TrainingArguments is far from "
            f"{lr_range[0]:g} to {lr_range[1]:g}, where its lr usually is"
        )
    return partial(make, **taken)


def _read_optim_args(text: str | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for match in OPTIM_ARGS.finditer(text or ""):
        key, value = match[1], match[2]
        try:
            values[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            words = {"true": True, "false": False, "null": None, "none": None}
            values[key] = words.get(value.lower(), value)
    if text and not values:
        raise UsageError(f"optim_args must look like momentum=0.9,nesterov=True, got {show(text)}")
    return values


def build_schedule(
    given: Schedule | Callable[..., Any], optimizer: Optimizer, arguments: Any, steps: int
) -> Schedule | LRScheduler | None:
    """The schedule with what it is not given from TrainingArguments, or the scheduler.

    Raises:
        UsageError: it responds to a metric that the Trainer does not give it, or its warmup is
            longer than the run.
    """
    made: Schedule | LRScheduler | None
    if isinstance(given, Schedule):
        made = given
    elif makes_schedule(given):
        made = _call_schedule(given, arguments, steps)
    else:
        made = make_scheduler(given, optimizer, "schedule")
    is_plateau = isinstance(made, ReduceLROnPlateau)
    follows = is_plateau or (isinstance(made, Schedule) and made.metric is not None)
    if follows and arguments.eval_strategy == "no":
        raise UsageError(
            "the schedule responds to a metric, but nothing is evaluated: set eval_strategy of "
            "TrainingArguments to steps or epoch"
        )
    if is_plateau:
        _name_metric(arguments, None, getattr(made, "mode", None))
    if isinstance(made, Schedule) and made.metric is not None:
        return _follow_metric(made, arguments)
    return made


def _call_schedule(function: Callable[..., Any], arguments: Any, steps: int) -> Schedule | None:
    """The schedule of a function or a partial, with arguments and warmup of TrainingArguments.

    Raises:
        UsageError: the warmup is longer than the run; the schedule knows it by another name.
    """
    kind, positional = getattr(function, "func", function), getattr(function, "args", ())
    known = argument_names(kind)
    given = {*known[: len(positional)], *getattr(function, "keywords", {})}
    values = {k: v for k, v in (arguments.lr_scheduler_kwargs or {}).items() if k not in given}
    if warmup := arguments.get_warmup_steps(steps):
        for key in {"warmup", "num_warmup_steps"} & set(known) - given - values.keys():
            if warmup > steps:
                raise UsageError(f"warmup_steps={warmup}: {warmup} steps, but the run has {steps}")
            values[key] = warmup
    made: Schedule | None = function(**values)
    return made


def _follow_metric(schedule: Schedule, arguments: Any) -> Schedule:
    """A schedule that responds to the metric of the best model, which the Trainer passes to it.

    If TrainingArguments name none, it is the loss, as for transformers' own such schedules.
    """
    assert schedule.metric is not None
    own, best = schedule.metric.monitor, arguments.metric_for_best_model
    if own and best and own.removeprefix("eval_") != best.removeprefix("eval_"):
        raise UsageError(
            f"the schedule responds to {own}, but the Trainer gives it metric_for_best_model={best}"
        )
    _name_metric(arguments, own, schedule.metric.mode)
    mode = schedule.metric.mode or ("max" if arguments.greater_is_better else "min")
    metric = MonitoredMetric(arguments.metric_for_best_model, mode, schedule.metric.every)
    return schedule.with_metric(metric)


def _name_metric(arguments: Any, name: str | None, mode: str | None) -> None:
    """Let TrainingArguments name the metric that the Trainer passes to a scheduler."""
    if arguments.metric_for_best_model:
        return
    arguments.metric_for_best_model = name or "loss"
    if arguments.greater_is_better is None:
        is_loss = arguments.metric_for_best_model.endswith("loss")
        arguments.greater_is_better = mode == "max" or not is_loss


def check_steppable(optimizer: Any) -> Any:
    """The optimizer, if the Trainer can step it.

    Raises:
        UsageError: the optimizer needs a closure.
    """
    if "closure" in getattr(optimizer, "requirements", ()):
        raise UsageError(
            f"{type(optimizer).__name__} {REQUIREMENTS['closure']}, which transformers' Trainer "
            "does not do"
        )
    return optimizer
