"""For the Trainer of transformers: its optimizer and schedule from here, as `Trainer` or a mixin.

    from lit_optim.hf import Trainer

    trainer = Trainer(model, args, train_dataset=data, optimizer="muon", schedule="cosine_warmup")

transformers is imported when `Trainer` or `TrainingArguments` is looked up.
"""

from __future__ import annotations

import ast
import inspect
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lit_optim import param_groups as groupings
from lit_optim.errors import UsageError, describe_value, show, suggest
from lit_optim.making import make_optimizer_by_role, read_optimizer_config, reject_target
from lit_optim.missing import require
from lit_optim.optimizers import find_optimizer
from lit_optim.param_groups import MakeGroups
from lit_optim.param_groups.rules import BASES
from lit_optim.requirements import REQUIREMENTS, is_far_lr
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.curve import MonitoredMetric
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.given import is_torch_scheduler, make_scheduler, makes_schedule
from lit_optim.schedules.registry import argument_names, find_function
from lit_optim.schedules.scheduling import schedule as attach_schedule
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
#: Classes that are made when they are looked up: the mixin and transformers' class.
CLASSES = {"Trainer": "TrainerMixin", "TrainingArguments": "TrainingArgumentsMixin"}
#: The values of `optim_args`, as in "momentum=0.9, betas=(0.9, 0.95)".
OPTIM_ARGS = re.compile(r"\s*(\w+)\s*=\s*(\([^)]*\)|\[[^]]*\]|[^,]*?)\s*(?:,|$)")


@dataclass
class TrainingArgumentsMixin:
    """Adds the names of an optimizer and a schedule to TrainingArguments, and to its command line.

    Their own arguments are `optim_args` and `lr_scheduler_kwargs`.
    """

    optimizer: str | None = field(
        default=None, metadata={"help": "The name of an optimizer of lit_optim, in place of optim."}
    )
    schedule: str | None = field(
        default=None,
        metadata={"help": "The name of a schedule of lit_optim, in place of lr_scheduler_type."},
    )


class TrainerMixin:
    """Gives transformers' Trainer an optimizer and a schedule from here.

        class Trainer(lit_optim.hf.TrainerMixin, transformers.Trainer):
            pass

    What the optimizer is not given, it takes from TrainingArguments: `learning_rate`,
    `weight_decay`, and for those whose name has Adam in it `adam_beta1`, `adam_beta2` and
    `adam_epsilon`. An optimizer by name also takes `optim_args`, and a schedule by name takes
    `lr_scheduler_kwargs`, and `warmup_steps` unless it is 0. Without one of the two, it is what
    `optim` or `lr_scheduler_type` says.

    An optimizer that averages its weights shows the average in evaluation, as with any Trainer, and
    also in what is saved and after training.

    Args:
        args: those of transformers' Trainer, and kwargs too.
        optimizer: a class, a partial of one, a function of the param groups, a name, "muon", or
            {"name": "muon", "lr": 0.02}.
        schedule: from `lit_optim.schedules`, called or not; a name, "cosine_warmup", or {"name":
            "cosine_warmup", "warmup": "5%"}; or a function of the optimizer that returns a
            scheduler, such as partial(StepLR, step_size=10), which is stepped after every update.
        param_groups: module -> groups, or a name, "layer_decay". By default as in transformers: no
            weight decay for LayerNorm and for names with bias or norm. Frozen parameters are left
            out.
        horizon: what resuming in a run of another length does; see `ScheduledLR`.
        kwargs: see args.

    Raises:
        UsageError: an argument of the wrong type, `optimizers` beside `optimizer`, or an optimizer
            that a Trainer cannot step.
    """

    args: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *args: Any,
        optimizer: MakeOptimizer | Mapping[str, Any] | str | None = None,
        schedule: Schedule | Callable[..., Any] | Mapping[str, Any] | str | None = None,
        param_groups: MakeGroups | str = groupings.transformers,
        horizon: HorizonPolicy = "error",
        **kwargs: Any,
    ) -> None:
        given = kwargs.get("optimizers", (None, None))
        for name, ours, theirs in zip(
            ("optimizer", "schedule"), (optimizer, schedule), given, strict=True
        ):
            if ours is not None and theirs is not None:
                raise UsageError(f"{name} and optimizers: give only one of them")
        self._param_groups, self._horizon = _read_groups(param_groups), horizon
        self._steps_per_epoch: int | None = None
        super().__init__(*args, **kwargs)
        chosen = getattr(self.args, "schedule", None) if schedule is None else schedule
        self._schedule = _read_schedule(chosen)
        chosen = getattr(self.args, "optimizer", None) if optimizer is None else optimizer
        self._make_optimizer = _read_optimizer(chosen)
        if self._make_optimizer is None and getattr(self, "optimizer_cls_and_kwargs", None):
            kind, values = self.optimizer_cls_and_kwargs  # type: ignore[attr-defined]
            if inspect.isclass(kind) and issubclass(kind, Optimizer):
                self._make_optimizer = partial(kind, **values)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Called by the Trainer."""
        if self.optimizer is None and self._make_optimizer is not None:
            make = _complete_optimizer(self._make_optimizer, self.args)
            module = next((one for one in (*args, *kwargs.values()) if one is not None), self.model)
            groups = _leave_out_frozen(self._param_groups(module))
            made = make_optimizer_by_role(
                make,
                lambda by_role: groupings.by_role(groups, module) if by_role else groups,
                _check_is_optimizer,
            )
            self.optimizer = _check_steppable(made)
        return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Called by the Trainer; the schedule is over `num_training_steps` updates."""
        if self.lr_scheduler is None and self._schedule is not None:
            of = self.optimizer if optimizer is None else optimizer
            made = _build_schedule(self._schedule, of, self.args, num_training_steps)
            if made is None or isinstance(made, Schedule):
                made = attach_schedule(
                    of,
                    made,
                    steps=num_training_steps,
                    steps_per_epoch=self._steps_per_epoch,
                    horizon=self._horizon,
                )
            self.lr_scheduler = made
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """Called by the Trainer, which counts the updates of an epoch here."""
        values = super().set_initial_training_values(*args, **kwargs)  # type: ignore[misc]
        self._steps_per_epoch = values[1]
        return values

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the model, with averaged weights if its optimizer averages them."""
        self._show_average()
        super().save_model(*args, **kwargs)  # type: ignore[misc]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; then the model has averaged weights if its optimizer averages them."""
        result = super().train(*args, **kwargs)  # type: ignore[misc]
        self._show_average()
        return result

    def _load_best_model(self) -> None:
        self._show_average()  # otherwise the next evaluation would put another average in its place
        super()._load_best_model()  # type: ignore[misc]

    def _show_average(self) -> None:
        if callable(show := getattr(self.optimizer, "eval", None)):
            show()


def _read_optimizer(given: Any) -> MakeOptimizer | str | None:
    """What makes the optimizer: a function of the param groups, or a name."""
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


def _read_groups(given: Any) -> MakeGroups:
    """The function of a module that gives its param groups."""
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


def _read_schedule(given: Any) -> Schedule | Callable[..., Any] | None:
    """The schedule, the function that makes one, or a function of the optimizer."""
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


def _complete_optimizer(make: MakeOptimizer | str, arguments: Any) -> MakeOptimizer:
    """The factory with what it is not given from TrainingArguments."""
    if isinstance(make, str):
        kind = find_optimizer(make)
        given = _read_optim_args(arguments.optim_args)
        known = inspect.signature(kind).parameters
        for key in given.keys() - known.keys():
            raise UsageError(f"optim_args: {make} takes no {key}{suggest(key, known)}")
        make = partial(kind, **given)
    if isinstance(make, Wrapped):
        return Wrapped(_complete_optimizer(make.make, arguments), make.wrap)
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


def _build_schedule(
    given: Schedule | Callable[..., Any], optimizer: Optimizer, arguments: Any, steps: int
) -> Schedule | LRScheduler | None:
    """The schedule with what it is not given from TrainingArguments, or the scheduler."""
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


def _leave_out_frozen(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with only what trains, as the Trainer has them."""
    kept = []
    for group in groups:
        places = [i for i, p in enumerate(group["params"]) if p.requires_grad]
        by_parameter = {key: group[key] for key in ("params", "param_names") if key in group}
        if places:
            kept.append(group | {k: [v[i] for i in places] for k, v in by_parameter.items()})
    return kept


def _check_is_optimizer(made: Any) -> None:
    if not isinstance(made, Optimizer):
        raise UsageError(
            f"optimizer must be {OPTIMIZER}; called with the param groups it gave "
            f"{describe_value(made)}"
        )


def _check_steppable(optimizer: Any) -> Any:
    if "closure" in getattr(optimizer, "requirements", ()):
        raise UsageError(
            f"{type(optimizer).__name__} {REQUIREMENTS['closure']}, which transformers' Trainer "
            "does not do"
        )
    return optimizer


if TYPE_CHECKING:
    import transformers

    class Trainer(TrainerMixin, transformers.Trainer):
        """What `__getattr__` makes."""

    @dataclass
    class TrainingArguments(TrainingArgumentsMixin, transformers.TrainingArguments):
        """What `__getattr__` makes."""

else:

    def __getattr__(name: str) -> Any:
        if name not in CLASSES:
            raise AttributeError(
                f"module {__name__!r} has no attribute {name!r}{suggest(name, CLASSES)}"
            )
        how = "python -m pip install transformers accelerate"
        require("transformers", user=f"lit_optim.hf.{name}", how=how)
        import transformers

        bases = globals()[CLASSES[name]], getattr(transformers, name)
        made = type(name, bases, {"__module__": __name__, "__doc__": bases[0].__doc__})
        globals()[name] = dataclass(made) if name == "TrainingArguments" else made
        return globals()[name]
