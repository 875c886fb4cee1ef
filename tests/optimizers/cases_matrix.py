"""The rows of cases.py for optimizers of matrices."""

from __future__ import annotations

from tests.optimizers import oracles_matrix as oracles

NS = {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3, "eps": 2.0}
MATRIX = {
    "muon": (
        None,
        oracles.muon,
        [
            {},
            {"momentum": 0.5, "nesterov": False, "weight_decay": 0.1, "ns_coefficients": "quintic"},
            {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw"} | NS,
            {"adjust_lr_fn": "spectral", "ns_coefficients": "precise", "ns_steps": 14},
        ],
    ),
    "normuon": (
        None,
        oracles.normuon,
        [
            {},
            {"momentum": 0.5, "nesterov": False, "weight_decay": 0.1, "ns_coefficients": "quintic"},
            {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw", "beta2": 0.5} | NS,
        ],
    ),
    "scion": (
        None,
        oracles.scion,
        [
            {},
            {"momentum": 0.5, "weight_decay": 0.0, "ns_coefficients": "quintic"},
            {"lr": 0.01, "rho": 3.0} | NS,
        ],
    ),
    "soap": (
        None,
        oracles.soap,
        [
            {},
            {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.3},
            {"precondition_frequency": 3, "max_precondition_dim": 4},
        ],
    ),
    "shampoo": (
        None,
        oracles.shampoo,
        [
            {},
            {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.3},
            {"precondition_frequency": 4, "block_size": 2},
            {"precondition_frequency": 3, "block_size": None, "matrix_eps": 1e-3},
            {"precondition_frequency": 3, "max_precondition_dim": 4, "matrix_eps": 1e-2},
        ],
    ),
}
