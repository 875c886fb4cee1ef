"""A rule that keeps p, writes a state and returns two reductions; with the expected values."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from lit_optim.kernels.arithmetic import absolute, total

NAMES = ("m", "start")
H = SimpleNamespace(keep=0.75, add=0.5, turned=True)


def rule(g, p, s, h):
    g = -g if h.turned else g
    after = h.keep * s.m + h.add * g
    return (
        1.0,
        0.0,
        0.0,
        {"m": after, "way": total(g * (s.start - p)), "size": total(absolute(after))},
    )


def rows(dtype, shapes, device="cpu"):
    """Return p, its gradient and both states for each shape."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in shapes:
        kinds = (dtype, dtype, wide, wide)
        drawn = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in kinds]
        found.append([x.to(kind).to(device) for x, kind in zip(drawn, kinds, strict=True)])
    return found


def expected(row):
    """Return the new state and both reductions, in float64."""
    p, g, m, start = (x.double() for x in row)
    after = 0.75 * m - 0.5 * g
    return after, {"way": float((-g * (start - p)).sum()), "size": float(after.abs().sum())}
