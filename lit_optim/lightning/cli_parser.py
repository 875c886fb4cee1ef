"""The arguments of `LitOptimCLI`, and short answers to mistakes in them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn, Union

from lightning.pytorch.cli import LightningArgumentParser, LRSchedulerTypeTuple
from lightning.pytorch.utilities.exceptions import (  # type: ignore[attr-defined]
    MisconfigurationException,
)
from torch import nn
from torch.optim import Optimizer

from lit_optim.errors import suggest
from lit_optim.hyperparameters import describe
from lit_optim.lightning.choices import (
    ParamGroups,
    optimizer_names,
    param_groups_classes,
    schedule_classes,
    wrapper_names,
)
from lit_optim.schedules.durations import HorizonPolicy
from lit_optim.schedules.scheduling import RUN_ARGUMENTS, NamedSchedule
from lit_optim.wrappers import Wrapper

#: The names of each argument that chooses a class.
NAMES: Mapping[str, Callable[[], Mapping[str, type]]] = {
    "optimizer": optimizer_names,
    "schedule": schedule_classes,
    "param_groups": param_groups_classes,
    "wrapper": wrapper_names,
}
#: What users of LightningCLI type for a schedule.
OTHER_NAME = "unrecognized arguments: --lr_scheduler"
#: The classes from which jsonargparse starts where none was chosen.
BASES = ("NamedSchedule", "Optimizer", "ParamGroups", "Wrapper")
#: What an error of jsonargparse is about: one of these arguments, ...
ARGUMENT = re.compile(rf'key "(?:\w+\.)?({"|".join(NAMES)})"')
#: ... the class that was chosen for it, or a name that is none, ...
CLASS = re.compile(r"class_path[ =]'([\w.]+)'")
NO_CLASS = re.compile(r"^ *Given value: (?:{'class_path': ')?([\w.]+)(?:$|')", re.MULTILINE)
#: ... its option that does not exist, or has a wrong value.
NO_OPTION = re.compile(r"Option '(\w+)' is not accepted")
WRONG_VALUE = re.compile(r'key "(\w+)":')
GIVEN_OPTION = re.compile(r"NestedArg\(key='(\w+)', val=(.*)\)$")


class LitOptimArgumentParser(LightningArgumentParser):
    """Lightning's parser, whose errors about our arguments are one line."""

    def add_optimizer_args(
        self,
        optimizer_class: Any = (Optimizer,),
        nested_key: str = "optimizer",
        link_to: str = "AUTOMATIC",
    ) -> None:
        """Add the arguments of a further optimizer, which the module gets through `link_to`."""
        self._require_link("add_optimizer_args", link_to)
        super().add_optimizer_args(optimizer_class, nested_key, link_to)

    def add_lr_scheduler_args(
        self,
        lr_scheduler_class: Any = LRSchedulerTypeTuple,
        nested_key: str = "lr_scheduler",
        link_to: str = "AUTOMATIC",
    ) -> None:
        """Add the arguments of a further scheduler, which the module gets through `link_to`."""
        self._require_link("add_lr_scheduler_args", link_to)
        super().add_lr_scheduler_args(lr_scheduler_class, nested_key, link_to)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the message, as jsonargparse does."""
        message = _shorten(message)
        if OTHER_NAME in message and _takes_schedule(self):
            message += "; it is --schedule here"
        super().error(message, ex)

    def _require_link(self, method: str, link_to: str) -> None:
        if link_to == "AUTOMATIC" and any(action.dest == "optimizer" for action in self._actions):
            raise MisconfigurationException(
                f"LitOptimCLI has --optimizer and --schedule already: give {method} a link_to, or "
                "LitOptimCLI auto_configure_optimizers=False"
            )


def _takes_schedule(parser: LightningArgumentParser) -> bool:
    """Whether this parser or one of its subcommands has `--schedule`."""
    actions = parser._actions
    subparsers = [
        one for a in actions if isinstance(a.choices, Mapping) for one in a.choices.values()
    ]
    return any(a.dest.split(".")[0] == "schedule" for a in actions) or any(
        isinstance(one, LightningArgumentParser) and _takes_schedule(one) for one in subparsers
    )


def add_optimizer_arguments(parser: LightningArgumentParser) -> None:
    """Add `--optimizer`, `--schedule`, `--param_groups`, `--wrapper` and `--horizon`."""
    for names in NAMES.values():
        names()  # the classes exist from now on, so that the parser finds them
    parser.add_argument(
        "--optimizer",
        type=Callable[[Any], Optimizer] | None,
        help="the optimizer: a name, such as adamw, or the dotted name of a class",
    )
    parser.add_subclass_arguments(
        (NamedSchedule,),
        "schedule",
        instantiate=False,
        fail_untyped=False,
        skip={"optimizer", *RUN_ARGUMENTS},
        help="the schedule of its lr over the run: a name, such as cosine_warmup",
    )
    parser.add_argument(
        "--param_groups",
        type=Union[ParamGroups, Callable[[nn.Module], list[dict[str, Any]]], None],  # noqa: UP007
        help="its param groups: a name, such as layer_decay, or a function of the module",
    )
    parser.add_argument(
        "--wrapper",
        type=Callable[[Optimizer], Wrapper] | None,
        help="what wraps it: a name, such as ema, or the dotted name of a class",
    )
    parser.add_argument(
        "--horizon",
        type=HorizonPolicy,
        default="error",
        help="whether a run that resumes one of another length is refused, keeps the schedule over "
        "the old length, or extends it to the new one",
    )


def _shorten(message: str) -> str:
    """An error of jsonargparse about a name or an option of ours in one line; others unchanged."""
    argument = ARGUMENT.search(message)
    if argument is None:
        return message
    key, kind = argument[1], CLASS.search(message)
    if kind is not None and (short := _shorten_option(message, key, kind[1])):
        return short
    path = NO_CLASS.search(message)
    module, _, name = path[1].rpartition(".") if path is not None else ("", "", "")
    names = NAMES[key]()
    if name in names:
        return f"--{key} cannot be {path[1]}; --{key} {name} is ours" if path else message
    return message if module or not name else f"unknown {key} {name!r}{suggest(name, names)}"


def _shorten_option(message: str, key: str, class_path: str) -> str | None:
    """The error in one line if it is about an option of this class."""
    name, known = class_path.rpartition(".")[2], _parameters(class_path)
    if option := NO_OPTION.search(message):
        if name in BASES:
            return f"--{key}.{option[1]} is of no {key}: choose one before it, by --{key} NAME"
        return f"--{key}: {name} takes no {option[1]}{suggest(option[1], known)}"
    for wrong in WRONG_VALUE.finditer(message):
        if wrong[1] in known:
            given = GIVEN_OPTION.search(message)
            got = f", got {given[2]}" if given is not None and given[1] == wrong[1] else ""
            return f"--{key}.{wrong[1]} must be {describe(known[wrong[1]].annotation)}{got}"
    return None


def _parameters(class_path: str) -> Mapping[str, inspect.Parameter]:
    module, _, name = class_path.rpartition(".")
    try:
        return inspect.signature(getattr(import_module(module), name)).parameters
    except (AttributeError, ImportError, TypeError, ValueError):
        return {}
