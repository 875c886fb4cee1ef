"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.hyperparameters import check, plain
from lit_optim.kernels.precision import compute_dtype
from lit_optim.wrappers.wrapper import Number, Wrapper


class Ema(Wrapper):
    """Trains the weights p, and is judged by their average e.

    Polyak & Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; exponentially as
    in Izmailov et al. 2018, arXiv:1803.05407, and most diffusion models.

        after update t = 1, 2, ...:   e = d e + (1 - d) p,   e = p before the first
        d = decay, or with warmup min(decay, (1 + t) / (10 + t))

    `eval()` puts e into the parameters, `train()` takes p back, to the bit. Under Lightning that is
    done wherever the run validates, tests, predicts and saves. Buffers, such as batch norm's
    statistics, are not averaged.

    Keeps one tensor of each parameter's shape, at least float32, or complex64 for a complex one.

    Args:
        base: the optimizer that trains.
        decay: e remembers about 1 / (1 - decay) updates.
        warmup: begin with a shorter memory, so that the first weights are soon forgotten.
    """

    numbers: ClassVar[tuple[str, ...]] = ("updates", "train_mode")
    tensors: ClassVar[tuple[str, ...]] = ("average", "trained")
    updates, train_mode = Number(), Number()

    def __init__(
        self,
        base: Optimizer,
        decay: Annotated[float, "in [0, 1)"] = 0.999,
        warmup: bool = True,
    ) -> None:
        check(type(self).__init__, {"decay": decay, "warmup": warmup})
        super().__init__(base)
        self.decay, self.warmup = plain(decay), warmup
        self.updates, self.train_mode = 0, True
        #: e of each parameter; in eval mode p, where e itself is in the parameter
        self.average: dict[Tensor, Tensor]
        #: p in eval mode, of parameters that are too short to hold e
        self.trained: dict[Tensor, Tensor]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, and the average by them."""
        if not self.train_mode:
            raise RuntimeError("Ema is in eval mode: call train() before step()")
        for p in self.params():
            if p not in self.average:
                self.average[p] = p.detach().to(compute_dtype(p), copy=True)
        loss, is_update = self.step_base(closure)
        if not is_update:
            return loss
        self.updates += 1
        d, t = self.decay, self.updates
        d = min(d, (1 + t) / (10 + t)) if self.warmup else d
        kinds: dict[Any, list[Tensor]] = {}
        for p in self.params():
            kinds.setdefault((p.device, p.dtype), []).append(p)
        for params in kinds.values():
            averages = [self.average[p] for p in params]
            now = [p.detach().to(e.dtype) for p, e in zip(params, averages, strict=True)]
            torch._foreach_lerp_(averages, now, 1 - d)
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average into the parameters; nothing if it is there."""
        if self.train_mode:
            self.train_mode = False
            for p, e in self.average.items():
                if e.dtype == p.dtype:
                    self._swap(p, e)
                else:
                    self.trained[p] = p.detach().clone()
                    p.copy_(e)

    @torch.no_grad()
    def train(self) -> None:
        """Take back what is trained; nothing if it is there."""
        if not self.train_mode:
            self.train_mode = True
            for p, e in self.average.items():
                if e.dtype == p.dtype:
                    self._swap(p, e)
                else:
                    p.copy_(self.trained.pop(p))

    @staticmethod
    def _swap(p: Tensor, e: Tensor) -> None:
        kept = p.detach().clone()
        p.copy_(e)
        e.copy_(kept)
