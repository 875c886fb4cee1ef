"""The base of schedule-free optimizers: averaging instead of a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.elementwise import Elementwise
from lit_optim.optimizers.base.scalars import power
from lit_optim.optimizers.base.types import Group, Scalars, Update, Value


class ScheduleFree(Elementwise):
    """Gradients are computed at y, between the iterates z and their average x.

    In training the parameters hold y, and the state holds `z`; `eval()` swaps x in, `train()` swaps
    y back in. Each group has the mode as `train_mode`, and so has the state dict. Loading a state
    dict does not change parameters: the loaded mode is that of the weights saved with it.

    A subclass names its `beta`, and passes its step to `average`.
    """

    def beta(self, group: Group) -> float:
        """The share of x in y: y = (1 - beta) z + beta x."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, in the mode of the existing ones."""
        self.defaults.setdefault("train_mode", True)
        mode = all(group["train_mode"] for group in self.param_groups)
        super().add_param_group({"train_mode": mode} | param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are not written.

        Raises:
            ValueError: the optimizer is in eval mode, where parameters hold the average.
        """
        self._check_mode()
        return super().step(closure)

    def step_parameters(self, group: Group, params: list[Tensor]) -> None:
        """Update some parameters of a group.

        Raises:
            ValueError: as `step`.
        """
        self._check_mode()
        super().step_parameters(group, params)

    def _check_mode(self) -> None:
        if not all(group["train_mode"] for group in self.param_groups):
            raise UsageError(f"{type(self).__name__} is in eval mode: call train() before step()")

    @torch.no_grad()
    def train(self) -> None:
        """Swap y into the parameters, for the next gradient; does nothing in train mode."""
        self._swap(True)

    @torch.no_grad()
    def eval(self) -> None:
        """Swap x, the average, into the parameters; does nothing in eval mode."""
        self._swap(False)

    def _swap(self, train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == train:
                continue
            beta = self.beta(group)
            # because y - z = beta (x - z)
            weight = 1 - beta if train else 1 - 1 / beta
            params = [p for p in group["params"] if self.state.get(p)]
            states = [self.state[p] for p in params]
            batch = Batch(params, [state["z"] for state in states], states)
            self.run_rule(group, batch, _swap_rule, (), SimpleNamespace(weight=weight))
            group["train_mode"] = train

    def initial_scalars(self, group: Group) -> dict[str, float]:
        return {"weight_sum": 0.0, "lr_max": 0.0}

    def next_scalars(self, group: Group, t: int) -> dict[str, float]:
        lr_max = max(group["lr_max"], self.effective_lr(group, t))
        of_lr = power(lr_max, group["weight_lr_power"])
        weight = power(t, group["r"]) * of_lr if of_lr else 0.0
        return {"weight_sum": group["weight_sum"] + weight, "lr_max": lr_max}

    def effective_lr(self, group: Group, t: int) -> float:
        return float(group["lr"] * min(1.0, t / max(1, group["warmup_steps"])))

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1.0, 1.0

    def scalars(self, group: Group, t: int) -> Scalars:
        lr, after = self.effective_lr(group, t), self.next_scalars(group, t)
        weight = after["weight_sum"] - group["weight_sum"]
        c = weight / after["weight_sum"] if after["weight_sum"] else 0.0
        c = 1.0 if math.isinf(after["weight_sum"]) else c
        return {"lr": lr, "c": c, "of_y": lr * (1 - self.beta(group) * (1 - c))}

    def average(self, step: Value, p: Value, s: Value, h: Value) -> Update:
        """Move z by lr times the step, average it into x, and move y between the two.

        x is not stored, so y takes in both: y = (1 - c) y + c z - lr (1 - beta (1 - c)) step.
        """
        return h.c * (p - s.z) + h.of_y * step, {"z": s.z - h.lr * step}


def _swap_rule(
    z: Value, p: Value, s: Value, h: Value
) -> tuple[Value, Value, Value, dict[str, Value]]:
    """Swap x and y, as a rule: p = p − weight (p − z); z is passed in place of a gradient."""
    return 1.0, h.weight, p - z, {}
