"""Constructors from annotated class attributes: an optimizer declares its hyperparameters once.

    class Lion(Elementwise):
        lr: NonNegative = 1e-4
        betas: Betas = (0.9, 0.99)
        weight_decay: NonNegative = 0.0

is `Lion(params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, executor="auto", ...)`: the
hyperparameters in the order of their declaration, then, by keyword only, the options that every
optimizer has. `inspect.signature`, `help`, type checkers and editors see that constructor.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, cast, get_origin

import torch
from typing_extensions import dataclass_transform

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, plain
from lit_optim.imitated import Imitated
from lit_optim.sharding.zero import check_under_zero, find_zero, follow_group, restore_group

LOG = logging.getLogger("lit_optim")

CLASS_VAR: Any = ClassVar
#: Marks an argument without a default.
REQUIRED: Any = inspect.Parameter.empty
#: Arguments of torch's optimizers that say how they compute a step. Here `executor` says it, so
#: constructors and param groups take these and ignore them.
TORCHS_EXECUTION = ("foreach", "fused", "capturable", "differentiable")


@dataclass(frozen=True)
class Field:
    """One argument of a constructor, as a class declares it.

    Args:
        annotation: its type and range.
        default: REQUIRED where it has none.
        kw_only: whether it is passed by keyword only.
        in_groups: whether it is a key of the param groups, which a group may set for itself.
    """

    annotation: Any = Any
    default: Any = REQUIRED
    kw_only: bool = False
    in_groups: bool = True


def option(*, default: Any, kw_only: bool = False) -> Any:
    """Declare a hyperparameter that may be passed by keyword only."""
    return Field(default=default, kw_only=kw_only)


def setting(*, default: Any, kw_only: bool = False) -> Any:
    """Declare an argument of the constructor that is not a key of the param groups."""
    return Field(default=default, kw_only=kw_only, in_groups=False)


@dataclass_transform(field_specifiers=(option, setting))
class Declared(Imitated):
    """Builds the constructor of a subclass from its annotated attributes.

    A subclass inherits the fields of its bases, in order; it may add some, or declare one again
    with another default or range. A class that writes `__init__` itself keeps it. Fields are not
    attributes of the class: their values belong to the param groups.
    """

    #: The arguments of the constructor by name.
    fields: ClassVar[dict[str, Field]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {
            name: _take_field(cls, name, annotation)
            for name, annotation in _evaluate_annotations(cls).items()
            if annotation is not CLASS_VAR and get_origin(annotation) is not CLASS_VAR
        }
        inherited: dict[str, Field] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= vars(base).get("fields", {})
        cls.fields = inherited | own
        if own and "__init__" not in vars(cls):
            cls.__init__ = _make_init(cls)  # type: ignore[method-assign]

    @classmethod
    def __subclasses__(cls) -> list[type]:
        """The subclasses, of which jsonargparse finds one by its bare name.

        Where one of ours has the name of one of torch's, that is torch's; its own subclasses are
        here in its place.
        """
        found: list[type] = []
        for one in type.__subclasses__(cls):
            is_ours = one.__module__.startswith("lit_optim.")
            hidden = is_ours and hasattr(torch.optim, one.__name__)
            found += one.__subclasses__() if hidden else [one]
        return found

    def construct(self: Any, params: Any, values: dict[str, Any]) -> None:
        """Call `set_up`; within torch's ZeroRedundancyOptimizer with the groups as they were given.

        Args:
            params: as for `set_up`.
            values: as for `set_up`.

        Raises:
            UsageError: the optimizer cannot be made of a part of the parameters.
        """
        zero = find_zero(self)
        if zero is None:
            self.set_up(params, values)
            return
        name = type(self).__name__
        check_under_zero(name, getattr(self, "requirements", ()))
        # all processes see all parameters first, so that they refuse alike
        everything = [restore_group(zero, group) for group in zero.param_groups]
        object.__new__(type(self)).set_up(everything, dict(values))
        given = [restore_group(zero, group) for group in params]
        self.set_up(given, values)
        if len(self.param_groups) != len(given):
            raise UsageError(
                f"{name} makes {len(self.param_groups)} groups of {len(given)} by names, but "
                "ZeroRedundancyOptimizer needs them as they are: divide them before"
            )
        for place, group in enumerate(self.param_groups):
            follow_group(zero, place, group)
        #: The optimizer of all parameters, whose order numbers them.
        self.__dict__["whole_optimizer"] = zero
        if hasattr(self, "follow_loading"):
            self.follow_loading(zero)

    def set_up(self, params: Any, values: dict[str, Any]) -> None:
        """Set up the optimizer.

        Args:
            params: parameters, or param groups.
            values: of all fields, checked against their annotations.
        """
        raise NotImplementedError


def _evaluate_annotations(cls: type) -> dict[str, Any]:
    """The annotations of public names, evaluated; others may name what only a checker knows."""
    module = vars(sys.modules[cls.__module__])
    return {
        name: eval(hint, module, dict(vars(cls))) if isinstance(hint, str) else hint
        for name, hint in inspect.get_annotations(cls).items()
        if not name.startswith("_")
    }


def _take_field(cls: type, name: str, annotation: Any) -> Field:
    """Make a field of an annotated attribute, and delete the attribute."""
    value = vars(cls).get(name, REQUIRED)
    if name in vars(cls):
        delattr(cls, name)
    if isinstance(value, Field):
        return Field(annotation, value.default, value.kw_only, value.in_groups)
    return Field(annotation, value)


def _make_init(cls: type[Declared]) -> Callable[..., None]:
    """A function with the arguments that the fields say.

    As in `dataclasses` it is compiled from text, so that Python itself binds the arguments and
    words its usual errors.
    """
    ignored = [name for name in TORCHS_EXECUTION if name not in cls.fields]
    positional = [name for name, field in cls.fields.items() if not field.kw_only]
    by_keyword = [name for name, field in cls.fields.items() if field.kw_only]
    names = [*positional, "*", *by_keyword, *ignored]
    defaults = {f"_{name}": field.default for name, field in cls.fields.items()}
    defaults |= {f"_{name}": None for name in ignored}
    arguments = [
        name if name == "*" or defaults[f"_{name}"] is REQUIRED else f"{name}=_{name}"
        for name in names
    ]
    values = ", ".join(f"{name!r}: {name}" for name in names if name not in ("*", "params"))
    text = (
        f"def __init__(self, {', '.join(arguments)}):\n"
        f"    values = drop_execution(type(self).__name__, {{{values}}}, {ignored})\n"
        f"    check(type(self).__init__, values)\n"
        f"    self.construct(params, plain_arguments(values))\n"
    )
    scope: dict[str, Any] = {
        "check": check,
        "drop_execution": drop_execution,
        "plain_arguments": plain_arguments,
    }
    scope |= defaults
    exec(text, scope)
    init = cast("Callable[..., None]", scope["__init__"])
    init.__annotations__ = {name: field.annotation for name, field in cls.fields.items()}
    init.__annotations__["return"] = None
    init.__module__ = cls.__module__
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    shown = inspect.signature(init)
    kept = [p for name, p in shown.parameters.items() if name not in ignored]
    vars(init)["__signature__"] = shown.replace(parameters=kept)
    return init


def plain_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert numbers and lists to Python's own, but keep an lr that is a tensor.

    As in torch, anyone who holds that tensor may fill it in place.
    """
    return {
        k: v if k == "lr" and isinstance(v, torch.Tensor) else plain(v) for k, v in values.items()
    }


def drop_execution(
    owner: str, values: Mapping[str, Any], keys: Iterable[str] = TORCHS_EXECUTION
) -> dict[str, Any]:
    """Leave out what says how torch's optimizers compute a step; a log line tells it.

    Args:
        owner: the name of the optimizer, for messages.
        values: arguments of a constructor, or a param group.
        keys: what to leave out.

    Raises:
        UsageError: the step should be differentiable.
    """
    for key in keys:
        if values.get(key) and key == "differentiable":
            raise UsageError(f"{owner} cannot differentiate through a step: differentiable=True")
        if values.get(key):
            _log_ignored(owner, f"{key}={values[key]}")
    return {key: value for key, value in values.items() if key not in keys}


@cache
def _log_ignored(owner: str, setting: str) -> None:
    LOG.warning("%s: %s has no effect: it computes its steps in its own way", owner, setting)


class TakesTorchsArguments(Declared):
    """Tells type checkers which arguments every constructor takes beside those in its signature."""

    if TYPE_CHECKING:
        foreach: bool | None = option(default=None, kw_only=True)
        fused: bool | None = option(default=None, kw_only=True)
        capturable: bool = option(default=False, kw_only=True)
        differentiable: bool = option(default=False, kw_only=True)
