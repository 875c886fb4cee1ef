"""What schedule-free optimizers share: averaging instead of a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.elementwise import Elementwise
from lit_optim.optimizers.base.optimizer import Batch, power


class ScheduleFree(Elementwise):
    """Gradients are taken at y, between z, which walks, and x, the average of where z has been.

    While training the parameters hold y, and the state `z`; `eval()` puts x into them, `train()`
    takes y back. Which it is stands in each group as `train_mode` and so in the state dict. Loading
    moves no parameter: the mode that is loaded is that of the weights that were saved with it.

    A subclass says what `beta` is, and gives its step to `averaged`.
    """

    def beta(self, group: dict[str, Any]) -> float:
        """How near y is to x: y = (1 - beta) z + beta x."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, in the mode of the others."""
        self.defaults.setdefault("train_mode", True)
        mode = all(group["train_mode"] for group in self.param_groups)
        super().add_param_group({"train_mode": mode} | param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are not written.

        Raises:
            ValueError: the parameters hold the average, where no gradient is to be taken.
        """
        if not all(group["train_mode"] for group in self.param_groups):
            raise UsageError(f"{type(self).__name__} is in eval mode: call train() before step()")
        return super().step(closure)

    @torch.no_grad()
    def train(self) -> None:
        """Let the parameters be y, where the next gradient is taken; nothing if they are."""
        self._turn(True)

    @torch.no_grad()
    def eval(self) -> None:
        """Let the parameters be x, the average, which is the result; nothing if they are."""
        self._turn(False)

    def _turn(self, train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == train:
                continue
            beta = self.beta(group)
            # from one of x and y past the other, by how far z lies from it
            weight = 1 - beta if train else 1 - 1 / beta
            params = [p for p in group["params"] if self.state.get(p)]
            states = [self.state[p] for p in params]
            batch = Batch(params, [state["z"] for state in states], states)
            self.go_over(group, batch, _towards, (), SimpleNamespace(weight=weight))
            group["train_mode"] = train

    def carried(self, group: dict[str, Any]) -> dict[str, float]:  # noqa: D102
        return {"weight_sum": 0.0, "lr_max": 0.0}

    def carry(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, float]:
        lr_max = max(carried["lr_max"], self.effective_lr(group, t, carried))
        of_lr = power(lr_max, group["weight_lr_power"])
        weight = power(t, group["r"]) * of_lr if of_lr else 0.0
        return {"weight_sum": carried["weight_sum"] + weight, "lr_max": lr_max}

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        return float(group["lr"] * min(1.0, t / max(1, group["warmup_steps"])))

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        return 1.0, 1.0

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        lr, after = self.effective_lr(group, t, carried), self.carry(group, t, carried)
        weight = after["weight_sum"] - carried["weight_sum"]
        c = weight / after["weight_sum"] if after["weight_sum"] else 0.0
        c = 1.0 if math.isinf(after["weight_sum"]) else c
        return {"lr": lr, "c": c, "of_y": lr * (1 - self.beta(group) * (1 - c))}

    def averaged(self, step: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        """Let z walk by lr times the step, x take z in, and y be between the two again.

        As x is not there, y makes both in one: y = (1 - c) y + c z - lr (1 - beta (1 - c)) step.
        """
        return h.c * (p - s.z) + h.of_y * step, {"z": s.z - h.lr * step}


def _towards(z: Any, p: Any, s: Any, h: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    """How parameters turn, as a rule: p = p − weight (p − z); z comes where a gradient would."""
    return 1.0, h.weight, p - z, {}
