"""Runs a rule on torch tensors: any device, no compiler; the reference for every other executor."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from lit_optim.kernels import precision
from lit_optim.kernels.ir import Rule
from lit_optim.kernels.precision import BLOCK, LOW_BITS, SCALE, clamp_to_dtype

#: Elements at a time on a CPU. The temporaries of a rule (about 1 MB) then stay in the cache; over
#: whole tensors they are mapped and faulted in anew each step, which costs up to 39x.
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
) -> dict[str, Tensor]:
    """One update of one tensor, in place: a, b, u, s' = rule(g, p, s, h); p = a p − b u; s = s'.

    Args:
        rule: pure; gets the old values and returns the new ones.
        p: the parameter, any floating dtype.
        g: its gradient, the same shape; never written.
        state: the optimizer's tensors for it by name, stored as `precision` says, all laid out
            alike and without gaps; written.
        states: the names of those that the rule knows.
        h: the rule's scalars.
        t: which update of this parameter it is, for the chances of roundings.
        number: of the parameter, likewise.
        in_parts: whether the rule looks at single elements only, so that it may see a part of them.

    Returns:
        The sums that the rule gives under other names than those of states.
    """
    told: dict[str, Tensor] = {}
    like = state[states[0]] if states else p
    if not precision.is_dense(like):
        like = torch.empty_like(like)
    x = match_layout(like, p)
    row = {
        name: precision.flat_view(state[name])
        for name in (*states, *[LOW_BITS] * (LOW_BITS in state))
    }
    gradient, parameter = precision.flat_view(match_layout(like, g)), precision.flat_view(x)
    parts = in_parts and p.device.type == "cpu"
    size = PART_SIZE if parts else max(p.numel(), 1)
    for start in range(0, p.numel(), size):
        end = start + size
        part = {name: values[start:end] for name, values in row.items()}
        for name in states:
            if name + SCALE in state:
                part[name + SCALE] = state[name + SCALE][start // BLOCK : -(-end // BLOCK)]
        seed = t, number, start
        found = _step(rule, parameter[start:end], gradient[start:end], part, states, h, seed)
        told = {name: told.get(name, 0) + value for name, value in found.items()}
    if x is not p:
        p.copy_(x)
    return told


def match_layout(like: Tensor, x: Tensor) -> Tensor:
    """X with its elements in the same places as those of `like`; x itself if they are."""
    if x.stride() == like.stride():
        return x
    return torch.empty_like(like, dtype=x.dtype).copy_(x)


def _step(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    part: dict[str, Tensor],
    states: Sequence[str],
    h: SimpleNamespace,
    seed: tuple[int, int, int],
) -> dict[str, Tensor]:
    wide = precision.compute_dtype(p)
    x = precision.join_master(p, part[LOW_BITS]) if LOW_BITS in part else p.to(wide)
    old = {name: precision.decode(part[name], part.get(name + SCALE), wide) for name in states}
    a, b, u, new = rule(g.to(wide), x, SimpleNamespace(**old), h)
    if (a, b) == (1.0, 0.0) and isinstance(u, float):
        pass  # p stays what it is
    elif LOW_BITS in part:
        precision.split_master(a * x - b * u, p, part[LOW_BITS])
    elif x is p and isinstance(b, float):
        p.mul_(a).sub_(u, alpha=clamp_to_dtype(b, wide))
    else:
        p.copy_(a * x - b * u)
    t, number, start = seed
    for k, name in enumerate(name for name in states if name in new):
        chance = None
        if part[name].dtype not in (torch.float64, torch.float32):
            key = precision.rounding_key(number, t, k // 2)
            chance = precision.rounding_bits(key, k % 2, start, len(p), p.device)
        precision.encode(new[name].to(wide), part[name], part.get(name + SCALE), chance)
    return {name: value for name, value in new.items() if name not in states}
