"""What `LitOptimCLI` chooses from: optimizers, wrappers and param groups by their names.

jsonargparse finds a class by a bare name among the subclasses of a type, and imports it by a dotted
one. So for each name there is a class here: of an optimizer or a wrapper an empty one, in whose
place its dotted name gives the class itself; of param groups one that takes their arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import nn

from lit_optim import lr_schedulers, param_groups, wrappers
from lit_optim.hyperparameters import check, hints_of
from lit_optim.optimizers import class_places
from lit_optim.wrappers import Wrapper


class ParamGroups:
    """Divides the parameters of a module into param groups; each subclass in another way."""

    make_groups: ClassVar[Callable[..., list[dict[str, Any]]]]

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def check(self) -> None:
        """Check the arguments against the annotations of the function.

        Raises:
            UsageError: one is out of range.
        """
        check(type(self).make_groups, self.arguments)

    def __call__(self, module: nn.Module) -> list[dict[str, Any]]:
        """Return the groups."""
        return type(self).make_groups(module, **self.arguments)


@cache
def optimizer_names() -> Mapping[str, type]:
    """For each optimizer, as "adamw", an empty subclass of torch's Optimizer of that name."""
    names = [place.rpartition(".")[2] for place in class_places().values()]
    return {name: _subclass(torch.optim.Optimizer, name) for name in names}


@cache
def wrapper_names() -> Mapping[str, type]:
    """For each wrapper, as "ema", an empty subclass of `Wrapper` of that name."""
    return {name: _subclass(Wrapper, name) for name in _wrappers()}


@cache
def param_groups_classes() -> Mapping[str, type[ParamGroups]]:
    """A subclass of `ParamGroups` for each function of a module that returns its groups."""
    classes = {}
    for name in param_groups.__all__:
        function = getattr(param_groups, name)
        if inspect.isfunction(function) and _is_of_module(hints_of(function)):
            name = name.removeprefix("by_")
            classes[name] = _param_groups_of(name, function)
    return classes


@cache
def schedule_classes() -> Mapping[str, type]:
    """The class of `lit_optim.lr_schedulers` for each schedule."""
    return {name: getattr(lr_schedulers, name) for name in lr_schedulers.__all__}


def __getattr__(name: str) -> Any:
    """The class of a name: of an optimizer or a wrapper the one that is meant."""
    if name in param_groups_classes():
        return param_groups_classes()[name]
    if name in _wrappers():
        return _wrappers()[name]
    for class_name, module in class_places().items():
        if name == module.rpartition(".")[2]:
            return getattr(import_module(module), class_name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _wrappers() -> dict[str, type[Wrapper]]:
    found = [getattr(wrappers, name) for name in wrappers.__all__]
    return {
        one.__name__.lower(): one
        for one in found
        if inspect.isclass(one) and issubclass(one, Wrapper) and one is not Wrapper
    }


def _is_of_module(hints: Mapping[str, Any]) -> bool:
    """Whether a function with these annotations divides the parameters of a module."""
    first, *others = hints
    # `divide_parameters` has rules too: of what `lit_optim.param_groups(module)` does
    is_base = others[:2] == ["base", "rules"]
    return first == "module" and hints["return"] == list[dict[str, Any]] and not is_base


def _subclass(base: type, name: str) -> type:
    return type(name, (base,), {"__module__": __name__})


def _param_groups_of(name: str, function: Callable[..., Any]) -> type[ParamGroups]:
    hints = hints_of(function)
    _, *own = inspect.signature(function).parameters.values()
    parameters = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]

    def __init__(self: ParamGroups, **arguments: Any) -> None:
        ParamGroups.__init__(self, **arguments)

    it = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    __init__.__signature__ = inspect.Signature([it, *parameters])  # type: ignore[attr-defined]
    fields = {"make_groups": staticmethod(function), "__init__": __init__}
    fields |= {"__module__": __name__, "__doc__": function.__doc__}
    return type(name, (ParamGroups,), fields)
