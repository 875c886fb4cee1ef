"""What each parameter is in its model: a hidden matrix, an embedding, the head, ..."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lit_optim.param_groups.decay import NORMS

Role = Literal["hidden", "embedding", "head", "first", "norm", "bias", "vector", "other"]

#: How linear layers are called that make queries, keys and values in one.
FUSED = re.compile(r"qkv|qkv_proj|c_attn|in_proj|wqkv|query_key_value", re.IGNORECASE)
#: Bare parameters that are looked up or added, not multiplied with.
TABLE = re.compile(r"emb|token|(^|[._])(wpe|wte|pos)($|[._])", re.IGNORECASE)
#: Gates that a recurrent layer keeps one below the other.
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1, nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


class Place(NamedTuple):
    """The role of a parameter, and of how many equal matrices, one below the other, it is made."""

    role: Role
    split: int = 1


#: The role of a parameter that several layers share is the first of these.
FIRST = ("embedding", "head", *(r for r in get_args(Role) if r not in ("embedding", "head")))


def roles(module: nn.Module) -> dict[str, Place]:
    """The place of each parameter, by name; of a shared one, by its first name.

    embedding: of an Embedding layer, also where a head is tied to it, and bare tables such as
        positions.
    head: of the last linear layer, unless that is within one of several blocks.
    first: of the first convolution, which sees the data.
    norm: of a layer that normalises.
    bias: called so.
    vector: of one dimension or none.
    other: one row or one column, or a convolution in groups.
    hidden: all others. Fused queries, keys and values are three matrices; the weights of a
        recurrent layer are one for each gate.
    """
    ends = _ends(module)
    found: dict[nn.Parameter, tuple[str, Place]] = {}
    for prefix, layer in module.named_modules(remove_duplicate=False):
        for name, p in layer.named_parameters(prefix, recurse=False):
            place = _place(layer, name, p, ends)
            first, before = found.get(p, (name, place))
            found[p] = first, min(before, place, key=lambda one: FIRST.index(one.role))
    return {name: found[p][1] for name, p in module.named_parameters()}


def by_role(groups: list[dict[str, Any]], module: nn.Module) -> list[dict[str, Any]]:
    """Each group divided by the roles of its parameters in the module.

    Returns:
        groups with a `role`, and `split` where a parameter is several matrices; each keeps what the
        group it comes from sets, and its name, as in `decay.hidden`.
    """
    names = {p: name for name, p in module.named_parameters()}
    places = roles(module)
    return [part for group in groups for part in _divided(group, names, places)]


def _divided(
    group: dict[str, Any], names: dict[nn.Parameter, str], places: dict[str, Place]
) -> Iterator[dict[str, Any]]:
    members: dict[Place, list[nn.Parameter]] = {}
    for p in group["params"]:
        members.setdefault(places[names[p]], []).append(p)
    for (role, split), params in members.items():
        part = group | {"params": params, "param_names": [names[p] for p in params], "role": role}
        title = role if split == 1 else f"{role}_{split}"
        part["name"] = f"{group['name']}.{title}" if "name" in group else title
        yield part | ({"split": split} if split > 1 else {})


def _ends(module: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """The first convolution and the head."""
    layers = dict(module.named_modules())
    first = next((layer for layer in layers.values() if isinstance(layer, _ConvNd)), None)
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if not linear:
        return first, None
    *parents, _ = linear[-1].split(".")
    for depth in range(len(parents)):
        container, block = layers[".".join(parents[:depth])], layers[".".join(parents[: depth + 1])]
        alike = [child for child in container.children() if type(child) is type(block)]
        if isinstance(container, nn.ModuleList | nn.Sequential) and len(alike) > 1:
            return first, None  # the last layer of the last block
    return first, layers[linear[-1]]


def _place(
    layer: nn.Module, name: str, p: Tensor, ends: tuple[nn.Module | None, nn.Module | None]
) -> Place:
    *_, owner, own = ["", *name.split(".")]
    first, head = ends
    if own.startswith("bias") or own.endswith("bias"):
        return Place("bias")
    if isinstance(layer, NORMS):
        return Place("norm")
    if p.ndim < 2:
        return Place("vector")
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return Place("embedding")
    if layer is head or layer is first:
        return Place("head" if layer is head else "first")
    if p.shape[0] == 1 or p.shape[0] == p.numel() or getattr(layer, "groups", 1) != 1:
        return Place("other")
    if own != "weight" and TABLE.search(own):
        return Place("embedding")
    parts = next((gates for kind, gates in GATES.items() if isinstance(layer, kind)), 1)
    fused = isinstance(layer, nn.Linear) and FUSED.fullmatch(owner)
    if own == "in_proj_weight" or (fused and p.shape[0] == 3 * p.shape[1]):
        parts = 3
    return Place("hidden", parts if own != "weight_hr" else 1)
