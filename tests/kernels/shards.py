"""A rule of two passes with sums, made whole and by shards of which each knows only itself."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, norm, rms
from lit_optim.kernels.precision import LOW_BITS, SCALE, Place, create_scales

NAMES = ("m", "v")
H = SimpleNamespace(take=0.25, keep=0.75, eps=0.125, scaled=True)
#: Where the tensor is cut: a shard is empty, the others begin at a block of 8-bit states.
CUTS = [0, 256, 256, 4096 + 512, 2 * 4096 + 77]
#: p, g and both states: every format that is stored.
FORMATS: dict[str, list[torch.dtype]] = {
    "float64": [torch.float64] * 4,
    "float32": [torch.float32] * 4,
    "float16": [torch.float16, torch.float16, torch.float32, torch.float32],
    "bfloat16": [torch.bfloat16] * 4,
    "8 bits": [torch.float32, torch.float32, torch.int8, torch.uint8],
    "8 bits and low bits": [torch.bfloat16, torch.bfloat16, torch.int8, torch.uint8],
}


#: Those tried by default.
SAMPLE = [
    name if name in ("float64", "bfloat16", "8 bits and low bits")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in FORMATS
]  # fmt: skip


def rule(g, p, s, h):
    m = lerp(s.m, g, h.take)
    u = m / (rms(m) + h.eps)
    ratio = norm(p) / clip(norm(u), h.eps, 1e9) if h.scaled else 1.0
    return 1.0 - 0.01 * ratio, 0.1 * ratio, u, {"m": m, "v": average_squares(s.v, u, h.keep)}


def make_row(formats):
    """p, g, both states, their scales and the low bits of p, of the whole tensor."""
    generator = torch.Generator().manual_seed(0)
    row = []
    for dtype in formats:
        drawn = torch.randn(CUTS[-1], dtype=torch.float64, generator=generator)
        row.append((drawn * (1 if dtype.is_floating_point else 0)).to(dtype))
    row += [create_scales(x, 0.5) for x in row if x.dtype in (torch.int8, torch.uint8)]
    return row + [torch.zeros(CUTS[-1], dtype=torch.int16)] * (
        len(row) > 4 and row[0].itemsize == 2
    )


def cut(row):
    """The rows of the shards, which share the memory of the whole one."""
    places = list(pairwise(CUTS))
    scale = len(row) > 4
    return [
        [
            x[first // 256 : -(-last // 256)] if scale and k in (4, 5) else x[first:last]
            for k, x in enumerate(row)
        ]
        for first, last in places
    ], [Place(first, CUTS[-1], max(last - first, 1)) for first, last in places]


def cut_columns(row, place, width=512):
    """The rows of the two shards of a matrix [16, 512] that is cut at a column; they are copies."""
    scale, size = len(row) > 4, 16 * width
    rows = []
    for first, last in ((0, place), (place, width)):
        own = []
        for k, x in enumerate(row):
            unit = 256 if scale and k in (4, 5) else 1
            matrix = x[: size // unit].view(16, -1)
            own.append(matrix[:, first // unit : last // unit].reshape(-1).clone())
        rows.append(own)
    places = [Place(0, size, place, width - place), Place(place, size, width - place, place)]
    return rows, places


def state_of(row):
    """The tensors of a row as the torch executor takes them."""
    names = [*NAMES, *[name + SCALE for name in NAMES], LOW_BITS]
    return dict(zip(names, row[2:], strict=False))


def run_together(parts):
    """Run the passes of shards together, each of which is elsewhere."""
    sums = [next(part) for part in parts]
    while sums:
        total = sum(one.double() for one in sums)
        sums = [more for part in parts if (more := advance(part, total)) is not None]


def advance(part, total):
    try:
        return part.send(total)
    except StopIteration:
        return None


def compare(found, expected):
    """Assert that two rows are equal: what is stored by rounding exactly, else to rounding."""
    for x, y in zip(found, expected, strict=True):
        if x.dtype == torch.float64:
            torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-13)
        else:
            assert torch.equal(x, y)
