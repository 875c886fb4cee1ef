"""The app's own model and data."""

import math

import torch
from torch import nn


class Net(nn.Module):
    """A perceptron with two hidden layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """The logit of each point."""
        logits: torch.Tensor = self.layers(points)
        return logits.squeeze(1)


def make_points(count: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two spirals, one inside the other: points and their classes."""
    angle = torch.linspace(0.5, 1.5 * math.pi, count // 2)
    arm = torch.stack([angle.cos(), angle.sin()], 1) * angle[:, None] / 4
    x = torch.cat([arm, -arm])
    return x + noise * torch.randn_like(x), torch.arange(2.0).repeat_interleave(count // 2)
