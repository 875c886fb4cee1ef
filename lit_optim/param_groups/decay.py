"""Which parameters are decayed.

Every parameter lands in exactly one group, tied ones once; frozen ones too, so that unfreezing
them later changes no group. Groups carry a `name`, under which their lr is logged, and the names of
their parameters as `param_names`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lit_optim.errors import UsageError

MakeGroups = Callable[[nn.Module], list[dict[str, Any]]]
FSDP_PREFIX = "_fsdp_wrapped_module."

#: Layers that normalise; their scale and shift are never decayed.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
#: What transformers takes for them, and for biases, in a name in lower case.
TRANSFORMERS_NORMS = re.compile(r"bias|layernorm|rmsnorm|(^|\.|_)norm($|\.)")


def no_decay(module: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices and convolutions; none for norm layers, biases and 1-D parameters.

    Returns:
        groups `decay` and `no_decay` (the latter with weight_decay 0); an empty one is left out.

    Raises:
        ValueError: the module has no parameter to train, or FSDP has flattened them already.
    """
    exempt: dict[str, bool] = {}
    for prefix, layer in module.named_modules():
        if type(layer).__name__ == "FullyShardedDataParallel":
            raise UsageError("FSDP has flattened the parameters: decide the groups before, by name")
        for name, p in layer.named_parameters(prefix, recurse=False):
            is_bias = name.rpartition(".")[2] == "bias"
            exempt[name] = isinstance(layer, NORMS) or p.ndim <= 1 or is_bias
    named = dict(module.named_parameters())  # tied ones once
    decay = {name: p for name, p in named.items() if not exempt[name]}
    rest = {name: p for name, p in named.items() if exempt[name]}
    _require_trainable(named.values())
    groups = [group("decay", decay), group("no_decay", rest) | {"weight_decay": 0.0}]
    return [made for made in groups if made["params"]]


def transformers(module: nn.Module) -> list[dict[str, Any]]:
    """As transformers' Trainer decides: by the names of parameters, and by LayerNorm.

    Its get_decay_parameter_names as of version 5. No weight decay in an nn.LayerNorm, nor where a
    name has bias, layernorm or rmsnorm in it, or a part that is norm or ends in _norm. So the
    weight of a batch norm called `bn` is decayed, and that of an `up_norm` of any kind is not.

    Returns:
        groups `decay` and `no_decay` (the latter with weight_decay 0); an empty one is left out.

    Raises:
        ValueError: the module has no parameter to train, or FSDP has flattened them already.
    """
    named = dict(module.named_parameters())  # tied ones once
    if any(name.endswith("_flat_param") for name in named):
        raise UsageError("FSDP has flattened the parameters: decide the groups before, by name")
    # a LayerNorm that is the whole module is none of its layers
    layers = tuple(f"{prefix}." for prefix, layer in module.named_modules(remove_duplicate=False)
                   if prefix and isinstance(layer, nn.LayerNorm))  # fmt: skip
    rest = {
        name: p
        for name, p in named.items()
        if name.startswith(layers) or TRANSFORMERS_NORMS.search(name.lower())
    }
    decay = {name: p for name, p in named.items() if name not in rest}
    _require_trainable(named.values())
    groups = [group("decay", decay), group("no_decay", rest) | {"weight_decay": 0.0}]
    return [made for made in groups if made["params"]]


def group(name: str, named: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """A param group of this name."""
    return {"name": name, "params": [*named.values()], "param_names": [*named]}


def single(module: nn.Module) -> list[dict[str, Any]]:
    """All parameters alike, in one group called `all`.

    Raises:
        ValueError: the module has no parameter to train.
    """
    named = dict(module.named_parameters())
    _require_trainable(named.values())
    return [group("all", named)]


def decided(make: MakeGroups, module: nn.Module) -> MakeGroups:
    """The groups that `make` gives for `module` as it is now, to be had again later.

    FSDP flattens and cuts parameters before the optimizer is made; their names stay.
    """
    names = {p: name for name, p in module.named_parameters()}
    plan = [(group, [names[p] for p in group["params"]]) for group in make(module)]
    options = [({k: v for k, v in group.items() if k != "params"}, found) for group, found in plan]
    return partial(_by_name, options)


def _by_name(
    options: list[tuple[dict[str, Any], list[str]]], module: nn.Module
) -> list[dict[str, Any]]:
    params = {name.replace(FSDP_PREFIX, ""): p for name, p in module.named_parameters()}
    return [option | {"params": [params[name] for name in names]} for option, names in options]


def _require_trainable(params: Any) -> None:
    if not any(p.requires_grad for p in params):
        raise UsageError("the model has 0 trainable parameters")
