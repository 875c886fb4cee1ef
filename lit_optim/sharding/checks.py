"""Checks of parameters that are spread over processes, before anything is sent or changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.sharding.placement import is_sharded


def check_placement(name: str, label: str, p: Tensor, looks_at_whole: bool) -> None:
    """Refuse a parameter that is not where an optimizer can update it.

    Args:
        name: the optimizer's, or the setting that looks at whole tensors, for messages.
        label: the parameter's.
        p: the parameter.
        looks_at_whole: whether an update depends on more than one element at a time.

    Raises:
        UsageError: FSDP1 has flattened it, or it is a DTensor of partial sums or of other
            processes.
    """
    if looks_at_whole and is_flattened(p):
        raise UsageError(
            f"{name} looks at whole tensors, but parameter {label} is flattened by "
            "FullyShardedDataParallel (FSDP1): shard the model by fully_shard (FSDP2)"
        )
    if not is_sharded(p):
        return
    mesh: Any = p.device_mesh  # type: ignore[attr-defined]
    if any(placement.is_partial() for placement in p.placements):  # type: ignore[attr-defined]
        raise UsageError(
            f"parameter {label} is a DTensor of partial sums, {p.placements}: redistribute it "  # type: ignore[attr-defined]
            f"before it is given to {name}"
        )
    if mesh.get_coordinate() is None:
        raise UsageError(
            f"parameter {label} is spread over the processes {mesh.mesh.flatten().tolist()}, and "
            f"this is process {torch.distributed.get_rank()}: {name} cannot update it here"
        )


def check_gradient(label: str, p: Tensor) -> None:
    """Refuse a gradient that is spread over processes where its parameter is not, or the reverse.

    Raises:
        UsageError: it is one, or the two have different meshes.
    """
    g = p.grad
    if g is None or (is_sharded(g) == is_sharded(p) and _mesh(g) == _mesh(p)):
        return
    kinds = ["a DTensor" if is_sharded(x) else "a plain tensor" for x in (p, g)]
    if kinds[0] == kinds[1]:
        kinds = [f"on the mesh {_mesh(x)}" for x in (p, g)]
    raise UsageError(
        f"parameter {label} is {kinds[0]}, but its gradient is {kinds[1]}: they must be spread "
        "over the same processes"
    )


def is_flattened(p: Tensor) -> bool:
    """Whether it is a part of a parameter that FSDP1 has flattened."""
    return bool(getattr(p, "_fsdp_flattened", False))


def _mesh(x: Tensor) -> Any:
    return getattr(x, "device_mesh", None)
