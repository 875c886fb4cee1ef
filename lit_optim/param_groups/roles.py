"""Param groups by what each parameter is: a hidden matrix, an embedding, the head, ..."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from lit_optim.param_groups.describe import ParameterInfo, Place, describe_parameters


def roles(module: nn.Module) -> dict[str, Place]:
    """The place of each parameter, by name; of a shared one, by its first name.

    embedding: of an Embedding layer, also where a head is tied to it, and bare tables such as
        positions.
    head: of the last linear layer that is trained, unless that is within one of several blocks.
    first: of the first convolution, which sees the data.
    norm: of a layer that normalises.
    bias: called so.
    vector: of one dimension or none, and the magnitudes of weight normalization.
    other: one row or one column, or a convolution in groups.
    hidden: all others. Fused queries, keys and values are three matrices; the weights of a
        recurrent layer are one for each gate.
    """
    return {info.name: Place(info.role, info.split) for info in describe_parameters(module)}


def by_role(groups: list[dict[str, Any]], module: nn.Module) -> list[dict[str, Any]]:
    """Each group divided by the roles of its parameters in the module.

    Returns:
        groups with a `role`, and `split` where a parameter is several matrices; each keeps what the
        group it comes from sets, and its name, as in `decay.hidden`.
    """
    infos = {info.parameter: info for info in describe_parameters(module)}
    return [part for group in groups for part in _divided(group, infos)]


def _divided(
    group: dict[str, Any], infos: dict[nn.Parameter, ParameterInfo]
) -> Iterator[dict[str, Any]]:
    members: dict[Place, list[nn.Parameter]] = {}
    for p in group["params"]:
        members.setdefault(Place(infos[p].role, infos[p].split), []).append(p)
    for (role, split), params in members.items():
        names = [infos[p].name for p in params]
        part = group | {"params": params, "param_names": names, "role": role}
        title = role if split == 1 else f"{role}_{split}"
        part["name"] = f"{group['name']}.{title}" if "name" in group else title
        yield part | ({"split": split} if split > 1 else {})
