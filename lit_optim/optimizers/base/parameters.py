"""What an optimizer may be given as `params`, and how a model is read from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.options import OF_STEP
from lit_optim.param_groups import ModuleGroups, by_role, no_decay, single
from lit_optim.sharding import is_sharded
from lit_optim.sharding.checks import check_gradient, check_placement

#: The methods of a module that yield its parameters one by one.
YIELDS_PARAMETERS = {nn.Module.parameters.__code__, nn.Module.named_parameters.__code__}


class MissingRoles(UsageError):
    """An optimizer that needs the roles of its parameters was given parameters without them."""


def list_params(params: Any) -> list[Any]:
    """Parameters or param groups in a list; all parameters of a module are one group.

    Raises:
        TypeError: they are a single tensor, as in torch.
        UsageError: a module has no trainable parameter, or a layer that has no shape yet.
    """
    if isinstance(params, nn.Module):
        return single(params)
    if isinstance(params, Tensor):
        raise TypeError(
            "params argument given to the optimizer should be an iterable of Tensors or dicts, but "
            f"got {params.type()}"
        )
    return list(params)


def list_params_by_role(params: Any) -> list[Any]:
    """The same, but the parameters of a module are in the default groups, divided by role.

    So are those of `module.parameters()` and `module.named_parameters()`, as long as nothing was
    taken from them: such a generator knows its module. Groups that a function of
    `lit_optim.param_groups` has made know it too, and are divided by role.

    Raises:
        TypeError: as `list_params`.
        UsageError: as `list_params`.
    """
    if isinstance(params, nn.Module):
        return by_role(no_decay(params), params)
    if isinstance(params, ModuleGroups) and _can_be_divided(params):
        return by_role(params, params.module)
    source = _find_module(params)
    if source is None:
        return list_params(params)
    module, prefix = source
    given = list(params)
    wanted = {id(p[1] if isinstance(p, tuple) else p) for p in given}
    groups = list(_select(by_role(no_decay(module), module), wanted, prefix))
    found = {id(p) for group in groups for p in group["params"]}
    return groups if found == wanted else given  # a module may yield what is not its own


def divide_group(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Divide a group whose `params` are a module or its untouched generator, unless it has a role.

    The parts keep the settings of the group, also its weight decay.
    """
    params = group.get("params") if isinstance(group, dict) else None
    if (
        params is None
        or "role" in group
        or not (isinstance(params, nn.Module) or _find_module(params))
    ):
        return [group]
    parts = list_params_by_role(params)
    if not isinstance(parts[0], dict):
        return [group | {"params": parts}]
    names = [".".join(filter(None, (group.get("name"), part["name"]))) for part in parts]
    return [
        part | group | {"params": part["params"], "param_names": part["param_names"], "name": name}
        for name, part in zip(names, parts, strict=True)
    ]


def _can_be_divided(groups: ModuleGroups) -> bool:
    """Whether the groups still are of their module only, and nobody gave them roles."""
    own = {id(p) for p in groups.module.parameters()}
    return all(
        "role" not in group and all(id(p) in own for p in group["params"]) for group in groups
    )


def _find_module(params: Any) -> tuple[nn.Module, str] | None:
    """The module whose parameters a generator will yield, and the prefix of their names."""
    if not inspect.isgenerator(params) or params.gi_code not in YIELDS_PARAMETERS:
        return None
    if inspect.getgeneratorstate(params) != inspect.GEN_CREATED:
        return None
    arguments = inspect.getgeneratorlocals(params)
    prefix = arguments.get("prefix")
    return arguments["self"], f"{prefix}." if prefix else ""


def _select(groups: list[dict[str, Any]], wanted: set[int], prefix: str) -> Iterator[Any]:
    """The groups with the wanted parameters only, by their ids, and with longer names."""
    for group in groups:
        pairs = zip(group["param_names"], group["params"], strict=True)
        named = {prefix + name: p for name, p in pairs if id(p) in wanted}
        if named:
            yield group | {"params": [*named.values()], "param_names": [*named]}


def label_parameters(group: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of a group, each with its name or else its number, for messages."""
    names, params = group.get("param_names", ()), group["params"]
    if len(names) != len(params):  # none, or those of all processes
        names = [f"number {i}" for i in range(len(params))]
    return zip(names, params, strict=True)


def check_parameters(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Check the parameters of a group that is about to be added.

    Raises:
        ValueError: as in torch, another group has one of them.
        UsageError: one is sparse, or is where the optimizer cannot compute with it: see
            `joins_parameters`, `reads_values` and `takes_shards` of the bases, and
            `check_placement`; or it has no shape yet, and the optimizer needs one.
    """
    owner = type(optimizer).__name__
    known = {id(p): p for other in optimizer.param_groups for p in other["params"]}
    everything = [*known.values(), *group["params"]]
    looks_at_whole = "whole" in getattr(optimizer, "requirements", ())
    has_values = any(p.requires_grad and not p.is_meta for p in everything)
    for label, p in label_parameters(group):
        if id(p) in known:
            raise ValueError(
                f"some parameters appear in more than one parameter group: parameter {label}"
            )
        if p.layout != torch.strided:
            raise UsageError(
                f"{owner} updates dense parameters, but parameter {label} is stored as {p.layout}"
            )
        check_placement(owner, label, p, looks_at_whole)
        if is_sharded(p) and not getattr(optimizer, "takes_shards", True):
            raise UsageError(
                f"{owner}, which is torch's own, takes no DTensors, and parameter {label} is one: "
                "AdamW (optimizer=adamw), for example, updates the shards of a tensor"
            )
        if getattr(optimizer, "needs_shapes", False) and is_lazy(p):
            raise UsageError(
                f"{owner} needs the shapes of its parameters, but parameter {label} has none until "
                "the first batch: run one batch through the model first"
            )
        device = everything[0].device
        if getattr(optimizer, "joins_parameters", False) and p.device != device:
            raise UsageError(
                f"{owner} joins all parameters in one vector, but parameter {label} is on "
                f"{p.device} and the first one on {device}"
            )
        is_void = p.requires_grad and p.is_meta and has_values
        if getattr(optimizer, "reads_values", False) and is_void:
            raise UsageError(
                f"{owner} reads the values of its parameters, but parameter {label} is on the meta "
                "device, which has none"
            )


def check_first_step(optimizer: Any) -> None:
    """Check, before the first step and after groups were added, where the parameters are.

    Raises:
        UsageError: see `check_placement` and `check_gradient`.
    """
    count = 0
    for group in optimizer.param_groups:
        count += len(group["params"])
    if vars(optimizer).get("_checked") == count:
        return
    for group in optimizer.param_groups:
        owner = optimizer.owner(group)
        name = type(owner).__name__
        option = next((f"{name} with {key}={group[key]}" for key in OF_STEP if group[key]), "")
        looks_at_whole = "whole" in owner.requirements or bool(option)
        for label, p in label_parameters(group):
            check_placement(option or name, label, p, looks_at_whole)
            check_gradient(label, p)
    vars(optimizer)["_checked"] = count
