"""The numbers that a format has."""

from __future__ import annotations

import torch

from lit_optim.kernels.precision import BLOCK


def levels(dtype):
    """Return the values of the codes from 0 on, as fractions of the largest of a block.

    Eight to each halving, evenly spaced between one and the next; 0 for zero.
    """
    most = 127 if dtype == torch.int8 else 255
    down = [divmod(most - code, 8) for code in range(1, most + 1)]
    return torch.tensor([0.0, *((2 - r / 8) / 2 ** (q + 1) for q, r in down)], dtype=torch.float64)


def gaps(share, dtype):
    """Return the distance of the two levels around each fraction from 0 to 1."""
    known = levels(dtype)
    above = torch.searchsorted(known, share.double(), right=False).clamp(1, len(known) - 1)
    return known[above] - known[above - 1]


def tops(value):
    padded = torch.nn.functional.pad(value.abs(), (0, -len(value) % BLOCK)).view(-1, BLOCK)
    return padded.amax(1).repeat_interleave(BLOCK)[: len(value)].double()
