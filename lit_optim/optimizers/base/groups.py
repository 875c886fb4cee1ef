"""What a param group may hold, for these optimizers and for torch's."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.group_fields import group_name
from lit_optim.hyperparameters import check
from lit_optim.optimizers.base.declared import (
    TORCHS_EXECUTION,
    drop_execution,
    plain_arguments,
)
from lit_optim.optimizers.base.layout import LAYOUT, check_layout
from lit_optim.optimizers.base.options import OPTIONS
from lit_optim.optimizers.base.parameters import check_parameters

#: Keys of a param group that are not hyperparameters. `role` is what its parameters are in the
#: model (hidden, embedding, head, ...); `split` is the number of matrices of equal height stacked
#: in each of them, as in a fused projection to queries, keys and values; `transposed` says that
#: they are stored as [in, out, ...].
BOOKKEEPING = {"params", "name", "param_names", "initial_lr", "role", "split", "transposed"}

#: Keys that torch's schedulers and averages write into a group.
TORCHS_SCHEDULERS = {"max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
#: Names of hyperparameters in other libraries.
ELSEWHERE = {
    "learningrate": "lr", "wd": "weight_decay", "l2": "weight_decay", "epsilon": "eps",
    "beta": "betas", "beta1": "betas", "beta2": "betas", "mom": "momentum",
}  # fmt: skip
#: How similar a misspelled name is to the right one.
ALIKE = 0.78


def check_group(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Check a group and convert it for `optimizer`; the caller's group is not changed.

    A weight decay of 0 is dropped if the optimizer has no weight decay, so that groups made for any
    optimizer fit. A group cannot set what the class has `fixed`. An `lr_mult` is multiplied into
    the optimizer's lr; beside an lr of the group it is a key of other code, which has multiplied
    already. Numbers of numpy and torch become Python numbers, but an lr that is a tensor stays one.
    What says how torch computes a step is left out. A key that is no optimizer's
    hyperparameter is kept, as in torch: other code may use it. So is a hyperparameter of an
    optimizer that makes this one of its own groups, as SAM's `rho`.

    Raises:
        ValueError: the optimizer does not have the hyperparameter, its name is misspelled, or its
            value is out of range; or as `check_parameters`.
    """
    check_is_group(group)
    check_layout(group)
    known, fixed = optimizer.defaults, getattr(optimizer, "fixed", {})
    execution = [key for key in TORCHS_EXECUTION if key not in known]
    group = with_names(drop_execution(type(optimizer).__name__, group, execution))
    check_parameters(optimizer, group)
    kept: dict[str, Any] = {}
    for key, value in group.items():
        if key == "weight_decay" and key not in known and not value:
            continue
        unknown = key not in known and key not in BOOKKEEPING and key != "lr_mult"
        allowed = [name for name in known if name not in fixed]
        meant = _find_misspelled(key, [*allowed, "lr_mult"]) if unknown else None
        absent = unknown and (meant is not None or is_hyperparameter(key))
        absent = absent and not _is_of_wrapper(optimizer, group, key)
        if absent or (key in fixed and value != fixed[key]):
            raise UsageError(
                f"{type(optimizer).__name__} has no {key!r}; a param group may set "
                f"{', '.join(allowed)}{f'; did you mean {meant}?' if meant else ''}"
            )
        is_foreign = unknown or (key in BOOKKEEPING and key not in LAYOUT)
        kept |= {key: value} if is_foreign else plain_arguments({key: value})
    kept = apply_lr_mult(kept, known.get("lr"))
    hyper = {key: value for key, value in kept.items() if key not in BOOKKEEPING}
    check(type(optimizer).__init__, hyper)
    others = optimizer.param_groups
    return _name_parameters(kept, len(others)) if others and "param_names" in others[0] else kept


def _find_misspelled(key: str, known: list[str]) -> str | None:
    """The hyperparameter that a key that is not one is likely to mean."""
    if key in TORCHS_SCHEDULERS:
        return None
    folded = {"".join(filter(str.isalnum, name.casefold())): name for name in known}
    given = "".join(filter(str.isalnum, str(key).casefold()))
    elsewhere = ELSEWHERE.get(given)
    if elsewhere in known:
        return elsewhere
    begun = [name for name in known if len(key) > 2 and name.startswith(key)]
    near = difflib.get_close_matches(given, folded, n=1, cutoff=ALIKE)
    return folded[near[0]] if near else next(iter(begun), None)


def is_hyperparameter(key: str) -> bool:
    """Whether an optimizer of torch or of this package has a hyperparameter of this name."""
    return key in _hyperparameters()


def _is_of_wrapper(optimizer: Optimizer, group: dict[str, Any], key: str) -> bool:
    """Whether a key of a group is a hyperparameter of the optimizer that is making this one.

    Wrappers such as SAM set their own hyperparameters in their groups, and then make an optimizer
    of the class that they wrap, of the same groups.
    """
    first = group["params"][:1]
    # from the caller on: locals that name their own frame are a circle, which keeps all of them
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        maker = frame.f_locals.get("self")
        if isinstance(maker, Optimizer) and maker is not optimizer:
            groups = getattr(maker, "param_groups", ())
            has_group = any(key in own and _is_same(own["params"][:1], first) for own in groups)
            if has_group and key in maker.defaults:
                return True
        frame = frame.f_back
    return False


def _is_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return list(map(id, some)) == list(map(id, others))


@cache
def _hyperparameters() -> frozenset[str]:
    package = import_module("lit_optim.optimizers")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    modules = [import_module(f"{package.__name__}.{name}") for name in names]
    classes = {
        found
        for module in (torch.optim, *modules)
        for found in vars(module).values()
        if inspect.isclass(found) and issubclass(found, Optimizer)
    }
    taken = {name for found in classes for name in inspect.signature(found.__init__).parameters}
    others = {"self", "params", "defaults", "args", "kwargs", "values"}
    return frozenset(taken | set(OPTIONS)) - others


def _name_parameters(group: dict[str, Any], index: int) -> dict[str, Any]:
    """Name the parameters of a group that joins named ones: torch wants names for all or none."""
    group = with_names(group)
    name = group["name"] = group_name(group, index)
    group.setdefault("param_names", [f"{name}.{k}" for k in range(len(group["params"]))])
    return group


def apply_lr_mult(group: dict[str, Any], lr: float | None) -> dict[str, Any]:
    """Replace the `lr_mult` of a group by an lr; a group that has an lr is returned as it is.

    Args:
        group: a param group.
        lr: the optimizer's.

    Raises:
        UsageError: the lr is None.
    """
    if "lr_mult" not in group or group.get("lr") is not None:
        return group
    if lr is None or "lr" in group:
        raise UsageError(f"lr_mult={group['lr_mult']} is a factor of lr, but lr is null")
    rest = {key: value for key, value in group.items() if key != "lr_mult"}
    return rest | {"lr": lr * group["lr_mult"]}


def require(condition: bool, message: str) -> None:
    """Check a relation between hyperparameters.

    Raises:
        UsageError: it does not hold.
    """
    if not condition:
        raise UsageError(message)


def check_is_group(group: Any) -> None:
    """Reject what is not a param group.

    Raises:
        TypeError: as in torch.
    """
    if not isinstance(group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(group)}")


def with_names(group: dict[str, Any]) -> dict[str, Any]:
    """List the params of a group; names of (name, tensor) pairs become its `param_names`.

    Raises:
        TypeError: as in torch, some are not tensors, or they have no order.
        ValueError: as in torch, some have names and some have none.
    """
    check_is_group(group)
    params = group["params"]
    if isinstance(params, set):
        raise TypeError("params must have an order, but they are in a set")
    if isinstance(params, nn.Module):
        params = params.parameters()
    params = [params] if isinstance(params, Tensor) else list(params)
    pairs = [p for p in params if isinstance(p, tuple)]
    if pairs and len(pairs) < len(params):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    tensors = [p[1] for p in pairs] or params
    for p in tensors:
        if not isinstance(p, Tensor):
            kind = torch.typename(p)
            raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {kind}")
    names = {"param_names": [p[0] for p in pairs]} if pairs else {}
    return group | {"params": tensors} | names


def join_groups(owner: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Join groups into one of all parameters, for an optimizer that has one group only.

    Args:
        owner: the name of the optimizer, for messages.
        groups: groups that set no hyperparameters.

    Raises:
        UsageError: a group sets a hyperparameter.
        ValueError: a parameter is in several groups.
    """
    params: list[Tensor] = []
    names: list[str] = []
    for index, group in enumerate(map(with_names, groups)):
        for key, value in group.items():
            if key in BOOKKEEPING or (key == "weight_decay" and not value):
                continue
            name = group.get("name", index)
            raise UsageError(
                f"{owner} has one group of all parameters, but group {name} sets {key}"
            )
        params += group["params"]
        names += group.get("param_names", ())
    if len(groups) > 1 and len(set(map(id, params))) < len(params):
        raise ValueError("some parameters appear in more than one parameter group")
    named = {"param_names": names} if len(names) == len(params) else {}
    return {"name": "all", "params": params, **named}


def follow_division(
    saved: Sequence[dict[str, Any]], groups: Sequence[dict[str, Any]], may_join: bool = False
) -> list[dict[str, Any]]:
    """Divide the groups of a state dict as those of an optimizer are divided today.

    Each part keeps the settings that were saved, so that it goes on as before. What is joined from
    groups that differed in layout only has the layout of today.

    Args:
        saved: the groups of the state dict, whose params are numbers.
        groups: those of the optimizer.
        may_join: whether the states of a parameter are the same in every layout.

    Returns:
        The saved groups as they are, if they are not the same parameters by name, or if they would
        have to be joined and differ.
    """
    where = {
        name: (place, number)
        for place, group in enumerate(saved)
        for name, number in zip(group.get("param_names", ()), group["params"], strict=False)
    }
    names = [list(group.get("param_names", ())) for group in groups]
    everything = [name for own in names for name in own]
    is_divided = [list(group.get("param_names", ())) for group in saved] == names
    if is_divided or sorted(everything) != sorted(where):
        return list(saved)
    divided = []
    for own, group in zip(names, groups, strict=True):
        first, *others = (saved[place] for place in dict.fromkeys(where[name][0] for name in own))
        layout: dict[str, Any] = {}
        if others:
            alike = all(_without_layout(other) == _without_layout(first) for other in others)
            if not (may_join and alike):
                return list(saved)
            layout = {key: group[key] for key in LAYOUT if key in group}
            first = {key: value for key, value in first.items() if key not in LAYOUT}
        numbers = [where[name][1] for name in own]
        part = {"name": group.get("name"), "param_names": own, "params": numbers}
        divided.append(first | layout | part)
    return divided


def _without_layout(group: dict[str, Any]) -> dict[str, Any]:
    left_out = {"name", "params", "param_names", *LAYOUT}
    return {key: value for key, value in group.items() if key not in left_out}
