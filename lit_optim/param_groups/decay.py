"""Which parameters are decayed.

Every parameter lands in exactly one group, tied ones once; frozen ones too, so that unfreezing
them later changes no group. Groups carry a `name`, under which their lr is logged, and the names of
their parameters as `param_names`.
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
from lit_optim.param_groups.tree import NORMS

MakeGroups = Callable[[nn.Module], list[dict[str, Any]]]

#: What transformers takes for norm layers, and for biases, in a name in lower case.
TRANSFORMERS_NORMS = re.compile(r"bias|layernorm|rmsnorm|(^|\.|_)norm($|\.)")


def no_decay(module: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices and convolutions; none for norm layers, biases and 1-D parameters.

    Returns:
        groups `decay` and `no_decay` (the latter with weight_decay 0); an empty one is left out.

    Raises:
        ValueError: the module has no parameter to train, FSDP has flattened them already, or a
            layer is lazy and has no shape yet.
    """
    return _by_decay(describe_parameters(module), _is_exempt)


def transformers(module: nn.Module) -> list[dict[str, Any]]:
    """As transformers' Trainer decides: by the names of parameters, and by LayerNorm.

    Its get_decay_parameter_names as of version 5. No weight decay in an nn.LayerNorm, nor where a
    name has bias, layernorm or rmsnorm in it, or a part that is norm or ends in _norm. So the
    weight of a batch norm called `bn` is decayed, and that of an `up_norm` of any kind is not.

    Returns:
        groups `decay` and `no_decay` (the latter with weight_decay 0); an empty one is left out.

    Raises:
        ValueError: as `no_decay`.
    """
    return _by_decay(describe_parameters(module), _is_exempt_in_transformers)


def _by_decay(
    infos: list[ParameterInfo], is_exempt: Callable[[ParameterInfo], bool]
) -> list[dict[str, Any]]:
    _require_trainable(info.parameter for info in infos)
    decay = {info.name: info.parameter for info in infos if not is_exempt(info)}
    rest = {info.name: info.parameter for info in infos if is_exempt(info)}
    groups = [make_group("decay", decay), make_group("no_decay", rest) | {"weight_decay": 0.0}]
    return [made for made in groups if made["params"]]


def _is_exempt(info: ParameterInfo) -> bool:
    return isinstance(info.layer, NORMS) or info.tensor == "bias" or info.role == "vector" or (
        info.parameter.ndim <= 1
    )  # fmt: skip


def _is_exempt_in_transformers(info: ParameterInfo) -> bool:
    # a LayerNorm that is the whole module is none of its layers
    in_layer_norm = any(isinstance(layer, nn.LayerNorm) for layer in info.path[1:])
    return in_layer_norm or TRANSFORMERS_NORMS.search(info.name.lower()) is not None


def make_group(name: str, named: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """A param group of this name."""
    return {"name": name, "params": [*named.values()], "param_names": [*named]}


def single(module: nn.Module) -> list[dict[str, Any]]:
    """All parameters alike, in one group called `all`.

    Raises:
        ValueError: the module has no parameter to train, or a layer is lazy and has no shape yet.
    """
    named = named_parameters(module)
    _require_trainable(named.values())
    return [make_group("all", named)]


def snapshot_groups(make: MakeGroups, module: nn.Module) -> MakeGroups:
    """The groups that `make` gives for `module` as it is now, to be had again later.

    FSDP flattens and cuts parameters before the optimizer is made; their names stay.
    """
    names = parameter_names(module)
    plan = [(group, [names[p] for p in group["params"]]) for group in make(module)]
    options = [({k: v for k, v in group.items() if k != "params"}, found) for group, found in plan]
    return partial(_by_name, options)


def _by_name(
    options: list[tuple[dict[str, Any], list[str]]], module: nn.Module
) -> list[dict[str, Any]]:
    params = named_parameters(module)
    return [option | {"params": [params[name] for name in names]} for option, names in options]


def _require_trainable(params: Iterable[nn.Parameter]) -> None:
    if not any(p.requires_grad for p in params):
        raise UsageError("the model has 0 trainable parameters")
