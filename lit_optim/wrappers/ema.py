"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, plain
from lit_optim.kernels.precision import compute_dtype
from lit_optim.sharding import local_tensor
from lit_optim.wrappers.wrapper import Number, Wrapper


class Ema(Wrapper):
    """Trains the weights p and evaluates their exponential moving average e.

    Polyak & Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; exponentially as
    in Izmailov et al. 2018, arXiv:1803.05407, and most diffusion models.

        after update t = 1, 2, ...:   e = d e + (1 - d) p,   e = p before the first
        d = decay, or with warmup min(decay, (1 + t) / (10 + t))

    `eval()` writes e into the parameters, and `train()` restores p exactly; both change parameters
    in place. Lightning callbacks call them around validation, tests, predictions and checkpoints.
    Buffers, such as the statistics of batch norm, are not averaged. The root module of FSDP2 keeps
    whole weights after a forward pass without backward: call its `reshard()` before `train()`.

    State: one tensor of each parameter's shape, at least float32 (complex64 if it is complex).

    Args:
        base: the optimizer that updates p.
        decay: e averages over about the last 1 / (1 - decay) updates.
        warmup: start with a smaller decay, so that the initial weights are soon forgotten.
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
        #: e of each parameter; in eval mode it holds p, where the parameter holds e
        self.average: dict[Tensor, Tensor]
        #: p in eval mode, for parameters whose dtype cannot hold e exactly
        self.trained: dict[Tensor, Tensor]

    def begin_update(self) -> None:
        """Let the average of a new parameter begin.

        Raises:
            RuntimeError: it is in eval mode.
        """
        if not self.train_mode:
            raise RuntimeError("Ema is in eval mode: call train() before step()")
        for p in self.params():
            if p not in self.average:
                self.average[p] = p.detach().to(compute_dtype(p), copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, then their average.

        Raises:
            RuntimeError: it is in eval mode.
        """
        self.begin_update()
        loss, is_update = self.step_base(closure)
        if not is_update:
            return loss
        self.updates += 1
        d, t = self.decay, self.updates
        d = min(d, (1 + t) / (10 + t)) if self.warmup else d
        pairs_by_kind: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for p in self.params():
            x, e = local_tensor(p).detach(), local_tensor(self.average[p])
            pairs_by_kind.setdefault((x.device, x.dtype), []).append((x, e))
        for pairs in pairs_by_kind.values():
            averages = [e for _, e in pairs]
            torch._foreach_lerp_(averages, [x.to(e.dtype) for x, e in pairs], 1 - d)
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Write the average into the parameters; do nothing in eval mode."""
        if self.train_mode:
            self.train_mode = False
            for p, e in self.average.items():
                if e.dtype == p.dtype:
                    self._swap(p, e)
                else:
                    self.trained[p] = p.detach().clone()
                    local_tensor(p).copy_(local_tensor(e))

    @torch.no_grad()
    def train(self) -> None:
        """Restore the trained parameters; do nothing in train mode."""
        if not self.train_mode:
            self.train_mode = True
            for p, e in self.average.items():
                if e.dtype == p.dtype:
                    self._swap(p, e)
                else:
                    local_tensor(p).copy_(local_tensor(self.trained.pop(p)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of the same wrapper around the same kind of optimizer.

        Raises:
            UsageError: it does not come from this wrapper, or it was saved in eval mode without the
                trained weights.
        """
        super().load_state_dict(state_dict)
        rounded = [p for p, e in self.average.items() if e.dtype != p.dtype]
        if not self.train_mode and any(p not in self.trained for p in rounded):
            raise UsageError(
                "the saved state of Ema is that of eval mode, without the weights in training: "
                "call train() before you save it by torch.distributed.checkpoint"
            )

    @staticmethod
    def _swap(p: Tensor, e: Tensor) -> None:
        now, average = local_tensor(p), local_tensor(e)
        kept = now.detach().clone()
        now.copy_(average)
        average.copy_(kept)
