"""Param groups with and without weight decay.

Every parameter is in exactly one group. A parameter that layers share counts once, and frozen
parameters are included, so that unfreezing them later changes no group. A group has a `name`, under
which its lr is logged, and the names of its parameters as `param_names`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from lit_optim.errors import UsageError
from lit_optim.param_groups.describe import (
    ParameterInfo,
    describe_parameters,
    named_parameters,
    parameter_names,
)
from lit_optim.param_groups.module_groups import ModuleGroups
from lit_optim.param_groups.tree import NORMS

MakeGroups = Callable[[nn.Module], list[dict[str, Any]]]

#: How transformers recognizes norm layers and biases, in a lower-case name.
TRANSFORMERS_NORMS = re.compile(r"bias|layernorm|rmsnorm|(^|\.|_)norm($|\.)")


def no_decay(module: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices and convolutions; none for norm layers, biases and 1-D parameters.

    Returns:
        The groups `decay` and `no_decay` (with weight_decay 0); an empty group is left out.

    Raises:
        UsageError: the module has no trainable parameter, FSDP has flattened the parameters, or a
            layer is lazy and has no shape yet.
    """
    return ModuleGroups(_by_decay(describe_parameters(module), _is_exempt), module)


def transformers(module: nn.Module) -> list[dict[str, Any]]:
    """Weight decay as transformers' Trainer applies it: by the names of parameters and LayerNorm.

    Follows its get_decay_parameter_names as of version 5. There is no weight decay in an
    nn.LayerNorm, nor for a parameter whose name contains bias, layernorm or rmsnorm, or has a part
    that is norm or ends in _norm. So the weight of a batch norm called `bn` is decayed, and that of
    an `up_norm` of any class is not.

    Returns:
        The groups `decay` and `no_decay` (with weight_decay 0); an empty group is left out.

    Raises:
        UsageError: as `no_decay`.
    """
    groups = _by_decay(describe_parameters(module), _is_exempt_in_transformers)
    return ModuleGroups(groups, module)


def _by_decay(
    infos: list[ParameterInfo], is_exempt: Callable[[ParameterInfo], bool]
) -> list[dict[str, Any]]:
    _require_trainable(info.parameter for info in infos)
    decay = {info.name: info.parameter for info in infos if not is_exempt(info)}
    exempt = {info.name: info.parameter for info in infos if is_exempt(info)}
    groups = [make_group("decay", decay), make_group("no_decay", exempt) | {"weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _is_exempt(info: ParameterInfo) -> bool:
    return isinstance(info.layer, NORMS) or info.tensor == "bias" or info.role == "vector" or (
        info.parameter.ndim <= 1
    )  # fmt: skip


def _is_exempt_in_transformers(info: ParameterInfo) -> bool:
    # the module itself is not one of its layers, even if it is a LayerNorm
    in_layer_norm = any(isinstance(layer, nn.LayerNorm) for layer in info.path[1:])
    return in_layer_norm or TRANSFORMERS_NORMS.search(info.name.lower()) is not None


def make_group(name: str, named: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """Return a param group with this name."""
    return {"name": name, "params": [*named.values()], "param_names": [*named]}


def single(module: nn.Module) -> list[dict[str, Any]]:
    """All parameters in one group called `all`.

    Raises:
        UsageError: the module has no trainable parameter, or a layer is lazy and has no shape yet.
    """
    named = named_parameters(module)
    _require_trainable(named.values())
    return ModuleGroups([make_group("all", named)], module)


def snapshot_groups(make: MakeGroups, module: nn.Module) -> MakeGroups:
    """Record the groups that `make` returns for `module` now, by the names of parameters.

    FSDP flattens and shards parameters before the optimizer is built, but keeps their names.

    Returns:
        A function that returns the same groups with the parameters that a module has later.
    """
    names = parameter_names(module)
    options = [
        ({k: v for k, v in group.items() if k != "params"}, [names[p] for p in group["params"]])
        for group in make(module)
    ]
    return partial(_by_name, options)


def _by_name(
    options: list[tuple[dict[str, Any], list[str]]], module: nn.Module
) -> list[dict[str, Any]]:
    params = named_parameters(module)
    return [option | {"params": [params[name] for name in names]} for option, names in options]


def _require_trainable(params: Iterable[nn.Parameter]) -> None:
    if not any(p.requires_grad for p in params):
        raise UsageError("the model has no trainable parameters")
