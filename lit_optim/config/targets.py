"""Which classes a configuration may name, and how their objects are built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from lit_optim.config.hints import suggest_other_group
from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import accepts, describe
from lit_optim.moved_names import current_name
from lit_optim.signatures import Signature, defined_in

#: `_target_` is code to run, so a group takes what is of its kind and ours, Lightning's or torch's
#: (what ends in a dot is a prefix), or what is one of its choices; else the user's own packages, by
#: the setting `allow`.
KINDS: dict[str, tuple[str, ...]] = {
    "optimizer": ("lit_optim.optimizers.", "torch.optim."),
    "scheduler": ("lit_optim.schedules.", "lit_optim.compat."),
    "model": ("lit_optim.tasks.",),
    "data": ("lit_optim.tasks.",),
    "trainer": ("lightning.pytorch.Trainer",),
    "logger": ("lightning.pytorch.loggers.",),
    "callbacks": ("lit_optim.callbacks.", "lightning.pytorch.callbacks."),
}
#: Groups whose choice is several objects, by name.
MULTI_GROUPS = ("logger", "callbacks")
TARGET = "_target_"
FEW = 10  # names that a message may list beside a suggestion


def find_targets(path: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_` in `node`, with its dotted path."""
    if isinstance(node, Mapping):
        if TARGET in node:
            yield path, node
        for key, value in node.items():
            yield from find_targets(f"{path}.{key}", value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from find_targets(f"{path}.{index}", value)


def check_allowed(path: str, target: Any, known: tuple[str, ...], allow: list[str]) -> None:
    """Refuse a target that is neither known to belong here nor of a package that is allowed.

    A target is a name that its module defines, or imports from its own package. Anything else that
    can be reached through attributes of a module, such as `that.module.os.system`, is refused.

    Args:
        path: its key.
        target: the dotted name of a class or function.
        known: such names, and prefixes, which end in a dot.
        allow: the user's packages.

    Raises:
        UsageError: naming the key and how to allow it.
    """
    if not isinstance(target, str) or not target:
        raise UsageError(f"{path} must be the dotted name of a class, got {show(target)}")
    names = [*known, *(f"{package}." for package in allow)]
    new = current_name(target)
    fits = [n for n in names if new == n or (n.endswith(".") and new.startswith(n))]
    home = defined_in(new)
    # nor may a package pass on a name of another one
    own = fits[0] if fits and fits[0].endswith(".") else new.split(".")[0]
    borrowed = home is not None and not f"{home}.".startswith(own)
    if not fits or borrowed:
        raise UsageError(f"{path}={target} is not allowed{_how_to_allow(target)}")
    if fits[0] in known and home is None:
        locate(path.removesuffix(f".{TARGET}"), target)  # raises with what is missing
        raise UsageError(f"{path}={target} is not a class of that module")


def check_function(path: str, dotted: str, allow: list[str]) -> None:
    """Refuse a function that is not of a package that the user has allowed.

    Raises:
        UsageError: naming the key and how to allow it.
    """
    if not any(dotted.startswith(f"{package}.") for package in allow):
        raise UsageError(f"{path}={dotted} is not allowed{_how_to_allow(dotted)}")


def _how_to_allow(dotted: str) -> str:
    package = dotted.split(".")[0]
    own = f"; if {package} is your own package, add allow=[{package}]"
    return own if may_be_allowed(package) else ""


def may_be_allowed(package: str) -> bool:
    """Whether `allow` may name a package: not one whose functions can run anything."""
    return package.split(".")[0] not in {
        *sys.stdlib_module_names,
        "lit_optim",
        "torch",
        "lightning",
        "hydra",
        "omegaconf",
    }


def check_arguments(
    path: str, node: Mapping[str, Any], signature: Signature, keys: Sequence[str] = ()
) -> None:
    """Check the keys and values of a node against the signature of its constructor.

    A null passes here if the data may still fill it in; see `check_required`.

    Raises:
        UsageError: an unknown key, or a value outside of what the annotation allows.
    """
    known = signature.parameters
    for key, value in node.items():
        if key == TARGET:
            continue
        if key.startswith("_") and key.endswith("_"):
            raise UsageError(f"{path}.{key} is not used here; write the arguments themselves")
        if key not in known:
            if signature.open:
                continue
            near = suggest(key, known, path) or suggest_other_group(f"{path}.{key}", keys)
            if not near or len(known) <= FEW:
                near += f" ({class_name(node)} takes {', '.join(known) or 'no arguments'})"
            raise UsageError(f"unknown key {path}.{key}{near}")
        parameter = known[key]
        if value is None and parameter.required:
            continue
        if not accepts(value, parameter.annotation):
            raise UsageError(
                f"{path}.{key} must be {describe(parameter.annotation)}, got {show(value)}"
            )


def check_required(
    path: str, node: Mapping[str, Any], signature: Signature, given: set[str]
) -> None:
    """Refuse a node that lacks a required argument of its constructor.

    Args:
        path: of the node.
        node: its keys and values.
        signature: of its constructor.
        given: arguments that are passed from elsewhere.

    Raises:
        UsageError: naming the argument.
    """
    for name, parameter in signature.parameters.items():
        if parameter.required and name not in given and node.get(name) is None:
            if accepts(None, parameter.annotation) and name in node:
                continue
            what = describe(parameter.annotation)
            unfilled = "; the data does not provide it" if path == "model" and name in node else ""
            raise UsageError(f"{path}.{name} must be given: {what}{unfilled}")


def class_name(node: Mapping[str, Any]) -> str:
    """The class of a node, without its module."""
    return str(node[TARGET]).rpartition(".")[2]


def locate(path: str, target: str) -> Any:
    """Import what `target` names.

    Raises:
        UsageError: there is no such module, or no such name in it, or another package defines it.
            What the module itself raises during its import is not caught.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        misspelt = error.name is None and module_name.startswith("lit_optim.")  # of lazy_names
        missing = module_name if misspelt else error.name
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UsageError(
                f"{path}.{TARGET}={target}: there is no module {missing}; is it installed, or here?"
            ) from None
        raise
    if not hasattr(module, name):
        own = [known for known, value in vars(module).items() if _is_of(module_name, value)]
        raise UsageError(
            f"{path}.{TARGET}={target}: {module_name} has no {name}{suggest(name, own)}"
        )
    found = getattr(module, name)
    home = getattr(found, "__module__", None)
    if not callable(found) or str(home).split(".")[0] != target.split(".")[0]:
        what = f"{home}.{name}" if callable(found) else "no class or function"
        raise UsageError(f"{path}.{TARGET}={target} is {what}; name it where it is defined")
    return found


def _is_of(module_name: str, value: Any) -> bool:
    """Whether a value is defined in a module or below it, not imported from elsewhere."""
    return f"{getattr(value, '__module__', '')}.".startswith(f"{module_name}.")


def make_factory(node: DictConfig) -> Callable[..., Any]:
    """A function that builds the object of a checked node; it gets plain lists and dicts.

    Raises:
        UsageError: a target, at any depth, cannot be imported.
    """
    plain = OmegaConf.to_container(node, resolve=True)
    for path, inner in find_targets(node._get_full_key(None), plain):
        locate(path, inner[TARGET])
    made: Callable[..., Any] = hydra.utils.instantiate(node, _convert_="all", _partial_=True)
    return made


def build(node: DictConfig) -> Any:
    """Build the object of a checked node; exceptions of its constructor are not caught."""
    return make_factory(node)()
