"""Param groups by the roles of parameters: hidden matrices, embeddings, the head, ..."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from lit_optim.param_groups.describe import ParameterInfo, ParameterRole, describe_parameters

#: The roles at the ends of a network.
OUTER = ("head", "first")


def roles(module: nn.Module) -> dict[str, ParameterRole]:
    """Return the role of each parameter by its name; a shared parameter has its first name.

    embedding: of an Embedding layer, also where a head is tied to it, and bare tables such as
        positions.
    head: of the last trained linear layer, unless it is inside one of several blocks.
    first: of the first convolution, whose input is the data.
    norm: of a normalization layer.
    bias: by its name.
    vector: of at most one dimension, and the magnitudes of weight normalization.
    other: of a single row or column, or of a grouped convolution.
    hidden: everything else. Fused queries, keys and values count as three matrices, and the weights
        of a recurrent layer as one matrix per gate.

    A weight that is stored as [in, out], as in GPT-2's Conv1D, or in a transposed convolution, is
    marked as transposed.
    """
    return {
        info.name: ParameterRole(info.role, info.split, info.transposed)
        for info in describe_parameters(module)
    }


def by_role(
    groups: list[dict[str, Any]], module: nn.Module, networks: Iterable[nn.Module] = ()
) -> list[dict[str, Any]]:
    """Divide each group by the roles of its parameters in the module.

    A `role`, `split` or `transposed` that a group already has is kept.

    Args:
        groups: of parameters of the module.
        module: the model.
        networks: parts of the model that are networks of their own, such as the generator of a GAN:
            each has a head and a first convolution.

    Returns:
        Groups with a `role`, with `split` where a parameter consists of several matrices, and with
        `transposed` where these are stored as [in, out]. Each keeps the settings of the group it
        comes from, and its name, as in `decay.hidden`.
    """
    infos = {info.parameter: info for info in describe_parameters(module)}
    for network in networks:
        for info in describe_parameters(network):
            if info.role in OUTER and infos[info.parameter].role == "hidden":
                infos[info.parameter] = replace(infos[info.parameter], role=info.role, split=1)
    return [part for group in groups for part in _divide_by_role(group, infos)]


def _divide_by_role(
    group: dict[str, Any], infos: dict[nn.Parameter, ParameterInfo]
) -> Iterator[dict[str, Any]]:
    members: dict[tuple[tuple[str, Any], ...], list[nn.Parameter]] = {}
    for p in group["params"]:
        info = infos[p]
        found: dict[str, Any] = {"role": info.role}
        found |= {"split": info.split} if info.split > 1 else {}
        found |= {"transposed": True} if info.transposed else {}
        own = tuple((key, value) for key, value in found.items() if key not in group)
        members.setdefault(own, []).append(p)
    for own, params in members.items():
        names = [infos[p].name for p in params]
        part = group | {"params": params, "param_names": names} | dict(own)
        title = "_".join("transposed" if value is True else str(value) for _, value in own)
        yield part | {"name": ".".join(filter(None, (group.get("name"), title)))}
