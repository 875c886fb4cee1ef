"""What the tests of released gradients share: a model, and the optimizers that release."""

from __future__ import annotations

import torch
from torch import nn

from tests.optimizers.running import NAMES, class_of

RELEASED = [
    name
    for name in NAMES
    if "closure" not in class_of(name).requirements and not class_of(name).needs_all_gradients
]


class Net(nn.Module):
    """Matrices of equal and of other shapes, one that is used twice, vectors, a layer that waits.

    Args:
        matrices_only: leave out what is no matrix.
    """

    def __init__(self, matrices_only=False):
        super().__init__()
        torch.manual_seed(0)
        bias = not matrices_only
        self.layers = nn.ModuleList(nn.Linear(6, 6, bias=bias) for _ in range(4))
        self.wide = nn.Linear(5, 6, bias=bias)
        self.norm = nn.Identity() if matrices_only else nn.LayerNorm(6)
        self.late = nn.Linear(6, 6, bias=bias)
        self.frozen = nn.Linear(6, 6, bias=bias).requires_grad_(False)
        self.head = nn.Linear(6, 3, bias=bias)

    def forward(self, x, step):
        x = torch.tanh(self.wide(x))
        for layer in (*self.layers, self.layers[0]):
            x = self.norm(torch.tanh(self.frozen(layer(x))))
        if step % 3:  # no gradient in some updates: their parameters are at other counts
            x = x + self.late(x)
        return self.head(x)
