"""For the Trainer of transformers: its optimizer and schedule from here, as `Trainer` or a mixin.

    from lit_optim.hf import Trainer

    trainer = Trainer(model, args, train_dataset=data, optimizer="muon", schedule="cosine_warmup")

transformers is imported when `Trainer` or `TrainingArguments` is looked up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from lit_optim import param_groups as groupings
from lit_optim.errors import UsageError, suggest
from lit_optim.hf_arguments import (
    OPTIMIZER,
    MakeOptimizer,
    build_schedule,
    check_steppable,
    complete_optimizer,
    read_groups,
    read_optimizer,
    read_schedule,
)
from lit_optim.hf_groups import make_groups
from lit_optim.making import make_optimizer_by_role
from lit_optim.missing import require
from lit_optim.param_groups import MakeGroups
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.scheduling import schedule as attach_schedule

#: Classes that are made when they are looked up: the mixin and transformers' class.
CLASSES = {"Trainer": "TrainerMixin", "TrainingArguments": "TrainingArgumentsMixin"}


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
        param_groups: module -> groups, or a name, "layer_decay". By default those of the Trainer:
            no weight decay for LayerNorm and for names with bias or norm, unless a subclass says
            otherwise. Frozen parameters are left out.
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
        self._param_groups, self._horizon = read_groups(param_groups), horizon
        self._steps_per_epoch: int | None = None
        super().__init__(*args, **kwargs)
        chosen = getattr(self.args, "schedule", None) if schedule is None else schedule
        self._schedule = read_schedule(chosen)
        chosen = getattr(self.args, "optimizer", None) if optimizer is None else optimizer
        self._make_optimizer = read_optimizer(chosen)
        if self._make_optimizer is None and getattr(self, "optimizer_cls_and_kwargs", None):
            kind, values = self.optimizer_cls_and_kwargs  # type: ignore[attr-defined]
            if inspect.isclass(kind) and issubclass(kind, Optimizer):
                self._make_optimizer = partial(kind, **values)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Called by the Trainer."""
        if self.optimizer is None and self._make_optimizer is not None:
            make = complete_optimizer(self._make_optimizer, self.args)
            module = next((one for one in (*args, *kwargs.values()) if one is not None), self.model)
            groups, module = make_groups(self, module, self._param_groups)
            made = make_optimizer_by_role(
                make,
                lambda by_role: groupings.by_role(groups, module) if by_role else groups,
                OPTIMIZER,
            )
            self.optimizer = check_steppable(made)
        return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Called by the Trainer; the schedule is over `num_training_steps` updates."""
        if self.lr_scheduler is None and self._schedule is not None:
            of = self.optimizer if optimizer is None else optimizer
            made = build_schedule(self._schedule, of, self.args, num_training_steps)
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
