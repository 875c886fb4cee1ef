"""8-bit states in a state dict, so that any number of processes can read what another one wrote.

In memory the codes of a shard are in blocks of 256, in the order in which they lie, each with a
scale. A state dict has these codes where a block is a part of a row p[i] of the whole parameter,
however it is divided. Codes have the shape [rows, blocks in a row, 256, 1], which no parameter has,
so that torch.distributed.checkpoint cannot copy codes into values. For other parameters the state
dict has the decoded values, which are encoded to the same codes again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import (
    BLOCK,
    EIGHT_BIT_DTYPES,
    compute_dtype,
    decode,
    flat_view,
    is_dense,
)
from lit_optim.sharding.placement import is_sharded, local_tensor
from lit_optim.sharding.saved import fit, join


def has_whole_blocks(p: Tensor) -> bool:
    """Whether the rows of a parameter are made of whole blocks."""
    return bool(p.ndim > 1 and p.numel() and _row(p) % BLOCK == 0 and p.is_contiguous())


def check_blocks(p: Tensor, label: str) -> None:
    """Reject a parameter whose blocks are divided between processes.

    Raises:
        UsageError: naming the parameter.
    """
    if not is_sharded(p) or not has_whole_blocks(p):
        return
    parts = {0: 1, 1: 1}
    for size, where in zip(p.device_mesh.shape, p.placements, strict=True):  # type: ignore[attr-defined]
        if not where.is_replicate():
            dim = where.dim % p.ndim
            parts[dim] = parts.get(dim, 1) * size
    columns = p.shape[1] // parts[1]
    whole = parts[1] == 1 or (p.shape[1] % parts[1] == 0 and columns * _inner(p) % BLOCK == 0)
    if max(parts) > 1 or not whole or not local_tensor(p).is_contiguous():
        raise UsageError(
            f"state_dtype=int8: parameter {label} of shape {list(p.shape)} is divided along its "
            f"rows, in parts that are not made of {BLOCK} numbers that lie side by side: give its "
            "group another state_dtype"
        )


def packed_shapes(p: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the codes and of the scales of a parameter with whole blocks."""
    scales = (p.shape[0], _row(p) // BLOCK)
    return (*scales, BLOCK, 1), scales


def pack(p: Tensor, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and scales of a parameter with whole blocks as a state dict has them.

    They share their memory with what is given, and are divided as p is.
    """
    local, of_codes, of_scales = local_tensor(codes), *packed_shapes(p)
    rows, blocks = local.shape[0], math.prod(local.shape[1:]) // BLOCK
    return (
        join(local.view(rows, blocks, BLOCK, 1), p, of_codes),
        join(scale.view(rows, blocks), p, of_scales),
    )


def load(p: Tensor, codes: Tensor, scale: Tensor, saved: Tensor, saved_scale: Tensor) -> bool:
    """Copy saved codes and scales into those of p, if they are of the same blocks.

    Returns:
        whether they are; otherwise nothing is copied.
    """
    if codes.dtype != saved.dtype or _is_packed(saved_scale) != has_whole_blocks(p):
        return False
    if _is_packed(saved_scale):
        for now, value in zip(pack(p, codes, scale), (saved, saved_scale), strict=True):
            local_tensor(now).copy_(fit(value, p))
        return True
    if is_sharded(p) or codes.stride() != saved.stride():
        return False
    codes.copy_(saved)
    scale.copy_(saved_scale)
    return True


def read(p: Tensor, saved: Tensor, scale: Tensor) -> Tensor:
    """The values of saved codes: the local shard of p."""
    if _is_packed(scale):
        codes, scale = fit(saved, p).reshape(-1), fit(scale, p).reshape(-1)
        return decode(codes, scale, compute_dtype(p)).view(local_tensor(p).shape)
    return fit(decode_as(p, saved, scale), p)


def fits(p: Tensor, saved: Tensor, scale: Tensor) -> bool:
    """Whether saved codes and scales have the shapes that those of p have in a state dict."""
    if saved.dtype not in EIGHT_BIT_DTYPES:
        return False
    if _is_packed(scale):
        return p.ndim > 1 and (tuple(saved.shape), tuple(scale.shape)) == packed_shapes(p)
    whole = not is_sharded(saved) and is_dense(saved)  # as earlier versions saved them
    return whole and saved.shape == p.shape and scale.shape == (-(-p.numel() // BLOCK),)


def _is_packed(scale: Tensor) -> bool:
    return scale.ndim == 2


def decode_as(p: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """The values of codes, which are in blocks in the order in which they lie; divided as p is."""
    local = local_tensor(codes)
    values = torch.empty_like(local, dtype=compute_dtype(p))  # in the order of the codes
    flat_view(values).copy_(decode(flat_view(local), scale, values.dtype))
    return join(values, p) if is_sharded(codes) else values


def as_bytes(p: Tensor, low: Tensor) -> Tensor:
    """The low bits of p, int16, as pairs of bytes [..., 2]: no backend sends int16."""
    local = local_tensor(low).unsqueeze(-1).view(torch.int8)
    return join(local, p, (*p.shape, 2))


def copy_bytes(p: Tensor, low: Tensor, saved: Tensor) -> bool:
    """Copy what `as_bytes` made into the low bits of p; False if it is something else."""
    if saved.dtype != torch.int8 or saved.shape != (*p.shape, 2):
        return False
    local_tensor(low).copy_(fit(saved, p).contiguous().view(torch.int16).squeeze(-1))
    return True


def _row(p: Tensor) -> int:
    return math.prod(p.shape[1:])


def _inner(p: Tensor) -> int:
    return math.prod(p.shape[2:])
