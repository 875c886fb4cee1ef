"""Lookahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.hyperparameters import check, plain
from lit_optim.sharding import local_tensor
from lit_optim.wrappers.wrapper import Number, Wrapper


class Lookahead(Wrapper):
    """Averages slow weights with the fast weights that k updates of the optimizer reach.

    Zhang et al. 2019, Lookahead Optimizer: k steps forward, 1 step back, arXiv:1907.08610, Alg. 1.

        every k updates:   slow = slow + alpha (p - slow);   p = slow

    Every k updates it overwrites the parameters; the state of the base optimizer is not changed.
    A validation between two of these sees the fast weights: choose a k that divides
    `trainer.val_check_interval` to validate the slow weights.

    State: one tensor of each parameter's shape.

    Args:
        base: the optimizer that updates the fast weights.
        k: the number of fast updates per slow update.
        alpha: the step size of the slow weights.
    """

    numbers: ClassVar[tuple[str, ...]] = ("updates",)
    tensors: ClassVar[tuple[str, ...]] = ("slow",)
    updates = Number()

    def __init__(
        self,
        base: Optimizer,
        k: Annotated[int, "> 0"] = 5,
        alpha: Annotated[float, "in (0, 1]"] = 0.5,
    ) -> None:
        check(type(self).__init__, {"k": k, "alpha": alpha})
        super().__init__(base)
        self.k, self.alpha, self.updates = plain(k), plain(alpha), 0
        self.slow: dict[Tensor, Tensor]

    def begin_update(self) -> None:
        """Let the slow weights of a new parameter begin."""
        for p in self.params():
            if p not in self.slow:
                self.slow[p] = p.detach().clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, and at every k-th update the slow weights."""
        self.begin_update()
        loss, is_update = self.step_base(closure)
        if not is_update:
            return loss
        self.updates += 1
        if self.updates % self.k == 0:
            for p in self.params():
                fast = local_tensor(p)
                fast.copy_(local_tensor(self.slow[p]).lerp_(fast.detach(), self.alpha))
        return loss
