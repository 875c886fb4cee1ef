"""Steps of wrapped optimizers on gradients that are made up."""

from __future__ import annotations

import torch

from lit_optim.wrappers import Ema, Lookahead, Sam
from tests.optimizers.running import gradients

HAND = {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}
WRAPPERS = [Ema, Lookahead, Sam]


def take_steps(optimizer, params, steps):
    for step in steps:
        gradients(params, step)
        closure = (lambda: torch.zeros(())) if isinstance(optimizer, Sam) else None
        optimizer.step(closure)
