"""What each optimizer is compared with, and in which settings. A new one is asked for a row."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch

from tests.optimizers import oracles
from tests.optimizers.cases_adaptive import ADAPTIVE
from tests.optimizers.cases_matrix import MATRIX


def loop(cls, **fixed):
    """torch's class, in its plain form."""
    return partial(cls, foreach=False, **fixed)


def transformers_adafactor(params, **settings):
    from transformers.optimization import Adafactor  # takes seconds

    return Adafactor(params, **settings)


class Case(NamedTuple):
    """What an optimizer is compared with, and in which settings."""

    #: Makes an independent implementation, such as torch's; None if there is none.
    counterpart: Any
    #: The algorithm for one coordinate in float64; None for torch's own classes.
    oracle: Any
    #: Settings to try; each argument has another value than its default in one of them.
    settings: list[dict[str, Any]]


OF_TORCH = {
    "adamw": (
        loop(torch.optim.AdamW),
        oracles.adamw,
        [
            {},
            {"amsgrad": True},
            {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
        ],
    ),
    "adam": (
        loop(torch.optim.Adam),
        oracles.adam,
        [
            {},
            {"amsgrad": True, "weight_decay": 0.1},
            {"lr": 0.1, "betas": (0.5, 0.9), "eps": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
        ],
    ),
    "adamw_hf": (
        None,
        oracles.adamw_hf,
        [
            {},
            {"correct_bias": False, "weight_decay": 0.1},
            {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3},
        ],
    ),
    "adam_weight_decay": (
        None,
        oracles.adam_weight_decay,
        [
            {},
            {"amsgrad": True, "weight_decay": 0.1},
            {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3},
        ],
    ),
    "sgd": (
        loop(torch.optim.SGD),
        oracles.sgd,
        [
            {},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
            {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        ],
    ),
    "momentum": (
        loop(torch.optim.SGD, momentum=0.9),
        partial(oracles.sgd, momentum=0.9),
        [
            {},
            {"dampening": 0.3, "weight_decay": 0.1},
            {"lr": 0.02, "momentum": 0.5},
            {"momentum": 0.0},
        ],
    ),
    "nag": (
        loop(torch.optim.SGD, momentum=0.9, nesterov=True),
        oracles.nag,
        [{}, {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.1}],
    ),
    "adagrad": (
        loop(torch.optim.Adagrad),
        oracles.adagrad,
        [
            {},
            {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2},
            {"lr": 0.1, "eps": 1e-3},
        ],
    ),
    "rmsprop": (
        loop(torch.optim.RMSprop),
        oracles.rmsprop,
        [
            {},
            {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
            {"lr": 0.1, "alpha": 0.9, "eps": 1e-3},
            {"centered": True},
            {"momentum": 0.5},
        ],
    ),
    "adadelta": (
        loop(torch.optim.Adadelta),
        oracles.adadelta,
        [{}, {"lr": 0.5, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1}],
    ),
    "adamax": (
        loop(torch.optim.Adamax),
        oracles.adamax,
        [{}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}],
    ),
    "nadam": (
        loop(torch.optim.NAdam),
        oracles.nadam,
        [
            {},
            {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "momentum_decay": 0.1},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
        ],
    ),
    "radam": (
        loop(torch.optim.RAdam),
        oracles.radam,
        [
            {},
            {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
            {"betas": (0.9, 0.5)},  # never averages enough
        ],
    ),
    "asgd": (
        loop(torch.optim.ASGD),
        oracles.asgd,
        [{}, {"lr": 0.1, "lambd": 0.05, "alpha": 0.5, "t0": 20.0, "weight_decay": 0.1}],
    ),
    "lion": (
        None,
        oracles.lion,
        [{}, {"lr": 1e-2, "betas": (0.5, 0.8), "weight_decay": 0.1}],
    ),
    "ademamix": (
        None,
        oracles.ademamix,
        [
            {},
            {"t_alpha_beta3": 60, "alpha": 5.0},
            {"lr": 0.1, "betas": (0.5, 0.9, 0.99), "eps": 1e-2, "weight_decay": 0.3},
        ],
    ),
    "rprop": (
        loop(torch.optim.Rprop),
        oracles.rprop,
        [{}, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (1e-2, 0.2)}],
    ),
    "adafactor": (
        loop(torch.optim.Adafactor),
        oracles.adafactor,
        [
            {},
            {"beta2_decay": -0.5, "eps": (0.5, 1.5), "d": 1.1, "weight_decay": 0.1},
            {"lr": 0.2},  # 1 / sqrt(t) is smaller from t = 25 on
        ],
    ),
    "adafactor_hf": (
        transformers_adafactor,
        oracles.adafactor_hf,
        [
            {},
            {"beta1": 0.9, "weight_decay": 0.1, "warmup_init": True},
            {"clip_threshold": 0.5, "decay_rate": -0.5, "eps": (1e-3, 1.5)},
            {"lr": 0.02, "relative_step": False, "scale_parameter": False, "weight_decay": 0.1},
            {"lr": 0.02, "relative_step": False, "beta1": 0.5},
        ],
    ),
    "muon_torch": (
        torch.optim.Muon,
        None,
        [
            {},
            {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.5, "nesterov": False, "ns_steps": 3},
            {
                "ns_coefficients": (2.0, -1.5, 0.5),
                "adjust_lr_fn": "match_rms_adamw",
                "eps": 100.0,
            },
        ],
    ),
    "lbfgs": (
        torch.optim.LBFGS,
        None,
        [
            {},
            {"lr": 0.5, "max_iter": 5, "max_eval": 4, "history_size": 2},
            {
                "line_search_fn": "strong_wolfe",
                "tolerance_grad": 1e-3,
                "tolerance_change": 1e-3,
            },
        ],
    ),
    "sparse_adam": (
        torch.optim.SparseAdam,
        None,
        [{}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}, {"maximize": True}],
    ),
}
#: The cases by the name of the YAML.
CASES = {name: Case(*case) for name, case in (OF_TORCH | ADAPTIVE | MATRIX).items()}
