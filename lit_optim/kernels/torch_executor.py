"""Runs a rule on torch tensors: any device, no compiler; the reference for every other executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

#: Elements at a time on a CPU. The temporaries of a rule (about 1 MB) then stay in the cache; over
#: whole tensors they are mapped and faulted in anew each step, which costs up to 39x.
BLOCK = 1 << 17

Rule = Callable[[Any, Any, Any, Any], tuple[Any, dict[str, Any]]]


def step(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    states: dict[str, Tensor],
    h: SimpleNamespace,
    a: float,
    b: float,
) -> None:
    """One update of one tensor, in place: u, s' = rule(g, p, s, h); p = a p − b u; s = s'.

    Args:
        rule: pure; gets the old values and returns the direction and the new states.
        p: the parameter, any floating dtype.
        g: its gradient, the same shape; never written.
        states: the optimizer's tensors for it, the same shape, at least float32; written.
        h: the rule's scalars.
        a: what the parameter is multiplied by.
        b: what the direction is multiplied by.
    """
    for p_, g_, s_ in _blocks(p, g, states):
        wide = torch.float64 if p_.dtype == torch.float64 else torch.float32
        x = p_.to(wide)
        u, new = rule(g_.to(wide), x, SimpleNamespace(**s_), h)
        if x is p_:
            p_.mul_(a).sub_(u, alpha=b)
        else:
            p_.copy_(a * x - b * u)
        for name, value in new.items():
            s_[name].copy_(value)


def _blocks(
    p: Tensor, g: Tensor, states: dict[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    tensors = (p, g, *states.values())
    if p.numel() <= BLOCK or p.device.type != "cpu" or not all(t.is_contiguous() for t in tensors):
        yield p, g, states
        return
    p, g = p.view(-1), g.view(-1)
    flat = {name: state.view(-1) for name, state in states.items()}
    for start in range(0, p.numel(), BLOCK):
        part = slice(start, start + BLOCK)
        yield p[part], g[part], {name: state[part] for name, state in flat.items()}
