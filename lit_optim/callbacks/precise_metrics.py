"""Metrics that count and add in float32, whatever the precision of the parameters."""

from __future__ import annotations

from typing import Any

import torch
from torchmetrics import Metric

from lit_optim.lightning_classes import Callback, LightningModule, Trainer

#: The dtypes in which sums are not exact enough.
COARSE = (torch.bfloat16, torch.float16)


class PreciseMetrics(Callback):
    """Has torchmetrics count and add in float32 what a module's own precision is too coarse for.

    Lightning converts the states of metrics as well where parameters are in 16 bits. In bfloat16 a
    count ends at 256, and in float16 a sum at 65504.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _make_precise(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _make_precise(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _make_precise(pl_module)


def _make_precise(module: LightningModule) -> None:
    for metric in module.modules():
        if isinstance(metric, Metric):
            for name, default in metric._defaults.items():
                metric._defaults[name] = _as_float32(default)
                setattr(metric, name, _as_float32(getattr(metric, name)))
            metric._dtype = torch.float32 if metric._dtype in COARSE else metric._dtype


def _as_float32(state: Any) -> Any:
    if isinstance(state, list):
        return [_as_float32(one) for one in state]
    return state.float() if isinstance(state, torch.Tensor) and state.dtype in COARSE else state
