"""Runs a rule on torch tensors, on any device and without a compiler.

This executor is the reference for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from lit_optim.kernels import precision
from lit_optim.kernels.ir import Rule
from lit_optim.kernels.precision import BLOCK, LOW_BITS, SCALE, Place, clamp_to_dtype

#: The number of elements processed at a time on a CPU. The temporaries of a rule (about 1 MB) then
#: stay in the cache; for whole tensors their pages would be mapped and faulted in at every step,
#: which takes up to 39x as long.
PART_SIZE = 1 << 17


def step(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    state: dict[str, Tensor],
    states: Sequence[str],
    h: SimpleNamespace,
    t: int,
    number: int = 0,
    in_parts: bool = True,
    place: Place | None = None,
) -> dict[str, Tensor]:
    """Update one tensor once, in place: a, b, u, s' = rule(g, p, s, h); p = a p − b u; s = s'.

    Args:
        rule: pure; takes the old values and returns the new ones.
        p: the parameter, of any floating dtype.
        g: its gradient, of the same shape; never written.
        state: the optimizer's tensors for it by name, stored as `precision` says, all with the same
            memory layout and without gaps; written.
        states: the names of the states that the rule knows.
        h: the rule's scalars.
        t: the number of this update, from which the bits for stochastic rounding are derived.
        number: the number of the parameter, likewise.
        in_parts: whether the rule is elementwise, so that it may run on a part of the tensor.
        place: where the tensor is in a whole one, if it is a shard.

    Returns:
        The reductions: sums that the rule returns besides the new states.
    """
    reductions: dict[str, Tensor] = {}
    like = state[states[0]] if states else p
    if not precision.is_dense(like):
        like = torch.empty_like(like)
    x = match_layout(like, p)
    row = {
        name: precision.flat_view(state[name])
        for name in (*states, *[LOW_BITS] * (LOW_BITS in state))
    }
    gradient, parameter = precision.flat_view(match_layout(like, g)), precision.flat_view(x)
    splits = in_parts and p.device.type == "cpu"
    size = PART_SIZE if splits else max(p.numel(), 1)
    for start in range(0, p.numel(), size):
        end = start + size
        part = {name: values[start:end] for name, values in row.items()}
        for name in states:
            if name + SCALE in state:
                part[name + SCALE] = state[name + SCALE][start // BLOCK : -(-end // BLOCK)]
        seed = t, number, place, start
        sums = _step_part(rule, parameter[start:end], gradient[start:end], part, states, h, seed)
        reductions = {name: reductions.get(name, 0) + value for name, value in sums.items()}
    if x is not p:
        p.copy_(x)
    return reductions


def match_layout(like: Tensor, x: Tensor) -> Tensor:
    """Return x with the memory layout of `like`; x itself if it has that layout."""
    if x.stride() == like.stride():
        return x
    return torch.empty_like(like, dtype=x.dtype).copy_(x)


def _step_part(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    part: dict[str, Tensor],
    states: Sequence[str],
    h: SimpleNamespace,
    seed: tuple[int, int, Place | None, int],
) -> dict[str, Tensor]:
    dtype = precision.compute_dtype(p)
    x = precision.join_master(p, part[LOW_BITS]) if LOW_BITS in part else p.to(dtype)
    old = {name: precision.decode(part[name], part.get(name + SCALE), dtype) for name in states}
    a, b, u, new = rule(g.to(dtype), x, SimpleNamespace(**old), h)
    if (a, b) == (1.0, 0.0) and isinstance(u, float):
        pass  # p stays unchanged
    elif LOW_BITS in part:
        precision.split_master(a * x - b * u, p, part[LOW_BITS])
    elif x is p and isinstance(b, float):
        p.mul_(a).sub_(u, alpha=clamp_to_dtype(b, dtype))
    else:
        p.copy_(a * x - b * u)
    t, number, place, start = seed
    for k, name in enumerate(name for name in states if name in new):
        random_bits = None
        if part[name].dtype not in (torch.float64, torch.float32):
            key = precision.rounding_key(number, t, k // 2)
            random_bits = precision.rounding_bits(key, k % 2, start, len(p), p.device, place)
        precision.encode(new[name].to(dtype), part[name], part.get(name + SCALE), random_bits)
    return {name: value for name, value in new.items() if name not in states}
