"""The base of torch's own optimizers, with declared hyperparameters and checked param groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lit_optim.optimizers.base.declared import Declared
from lit_optim.optimizers.base.groups import accepted
from lit_optim.optimizers.base.types import Params


class TorchOptimizer(Declared, torch.optim.Optimizer):
    """An optimizer that inherits its algorithm from a class of torch, which is its second base."""

    params: Params

    def set_up(self, params: Iterable[Any], values: dict[str, Any]) -> None:
        super().__init__(params, **values)  # the constructor of torch's class

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(accepted(self, param_group))
