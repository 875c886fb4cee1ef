"""Cases of the optimizers that came after torch's, coordinate by coordinate; see `cases`.

The packages that have them step all parameters of a group by one count, so that one which wakes up
late would differ; what they agree on is in test_peers.
"""

from __future__ import annotations

from tests.optimizers import oracles_adaptive as oracles

ADAM = {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.3}
WEIGHTING = {"warmup_steps": 20, "r": 0.5, "weight_lr_power": 1.5}

ADAPTIVE = {
    "nadamw": (None, oracles.nadamw, [{}, ADAM]),
    "laprop": (None, oracles.laprop, [{}, ADAM]),
    "signum": (
        None,
        oracles.signum,
        [
            {},
            {"lr": 1e-2, "momentum": 0.5, "weight_decay": 0.1},
            {"lr": 1e-2, "momentum": 0.6, "nesterov": True},
            {"momentum": 0.0},
        ],
    ),
    "adopt": (
        None,
        oracles.adopt,
        [{}, ADAM, {"clip_exp": 0.5}, {"lr": 1e-4, "clip_exp": None, "eps": 0.5}],
    ),
    "adan": (
        None,
        oracles.adan,
        [{}, ADAM | {"betas": (0.5, 0.8, 0.9)}, {"weight_decay": 0.3, "no_prox": True}],
    ),
    "lamb": (None, oracles.lamb, [{}, ADAM]),
    "lars": (
        None,
        oracles.lars,
        [
            {},
            {"lr": 5.0, "momentum": 0.5, "weight_decay": 0.1, "trust_coefficient": 1e-2},
            {"momentum": 0.0},
            {"lr": 0.02, "trust_coefficient": None},
        ],
    ),
    "stable_adamw": (None, oracles.stable_adamw, [{}, ADAM]),
    "mars": (
        None,
        oracles.mars,
        [
            {},
            ADAM | {"gamma": 0.1, "lr_1d": 0.02, "betas_1d": (0.5, 0.8), "weight_decay_1d": 0.0},
            {"optimize_1d": True, "weight_decay": 0.1},
        ],
    ),
    "schedule_free_adamw": (
        None,
        oracles.schedule_free_adamw,
        [{}, WEIGHTING, ADAM, ADAM | WEIGHTING | {"lr": 0.01}],
    ),
    "schedule_free_sgd": (
        None,
        oracles.schedule_free_sgd,
        [
            {},
            {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1},
            WEIGHTING | {"lr": 0.1, "weight_decay": 0.1},
        ],
    ),
    "prodigy": (
        None,
        oracles.prodigy,
        [
            {"d0": 1e-3},
            ADAM | {"d0": 1e-2, "beta3": 0.8, "growth_rate": 1.02},
            {"d0": 1e-2, "use_bias_correction": True, "d_coef": 2.0},
            {"d0": 1e-2, "decoupled_weight_decay": False, "weight_decay": 0.1}
            | {"safeguard_warmup": True, "lr": 0.5},
        ],
    ),
}
