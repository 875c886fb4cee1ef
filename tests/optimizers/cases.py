"""What each optimizer is compared with, and in which settings. A new one is asked for a row."""

from __future__ import annotations

import torch

from tests.optimizers import oracles

#: name of the YAML -> (torch's class or None, float64 oracle, settings to try)
CASES = {
    "adamw": (
        torch.optim.AdamW,
        oracles.adamw,
        [
            {},
            {"amsgrad": True},
            {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
        ],
    ),
    "adam": (
        torch.optim.Adam,
        oracles.adam,
        [{}, {"amsgrad": True, "weight_decay": 0.1}, {"lr": 0.1, "betas": (0.5, 0.9)}],
    ),
    "sgd": (
        torch.optim.SGD,
        oracles.sgd,
        [
            {},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
            {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        ],
    ),
    "adagrad": (
        torch.optim.Adagrad,
        oracles.adagrad,
        [{}, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2}],
    ),
}
