"""Sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, plain
from lit_optim.kernels.precision import accumulation_dtype, as_real
from lit_optim.wrappers.wrapper import Wrapper

EPS = 1e-12


class Sam(Wrapper):
    """Steps by the gradient at the worst point nearby, which leads to flat minima.

    Foret et al. 2021, Sharpness-Aware Minimization, arXiv:2010.01412, Alg. 1; adaptive: Kwon et al.
    2021, ASAM, arXiv:2102.11600, without its small eta.

        g = gradient at p;   e = rho g / |g|,   adaptive: rho |p|² g / ||p| g|
        step by the gradient at p + e, from p

    Norms are over all parameters. In a complex parameter |p| is the modulus of each number, so that
    its real and its imaginary part have one unit.

    Each update takes two evaluations of the loss, so `step` wants a closure; Lightning gives one.
    Its gradient clipping applies to both gradients: by norm it leaves e as it is, and clips what is
    stepped by. Batch norm's statistics see both evaluations, and a training loss is logged twice.
    With several devices each rank has the same gradient, so the same e. Neither gradient
    accumulation nor a loss scaler (16-mixed) can go with it.

    Keeps nothing; within a step one copy of the parameters.

    Args:
        base: the optimizer that steps.
        rho: how far the worst point is looked for; 0.05, adaptive about ten times as far.
        adaptive: in units of each weight, so that rescaled weights change nothing.
    """

    around_averaging: ClassVar[bool] = True
    around_closures: ClassVar[bool] = False
    own_needs: ClassVar[tuple[str, ...]] = ("closure", "whole")

    def __init__(
        self,
        base: Optimizer,
        rho: Annotated[float, "> 0"] = 0.05,
        adaptive: bool = False,
    ) -> None:
        check(type(self).__init__, {"rho": rho, "adaptive": adaptive})
        super().__init__(base)
        self.rho, self.adaptive = plain(rho), adaptive

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the loss twice and update every parameter that has a gradient.

        Args:
            closure: clears the gradients, computes the loss and its gradients, returns the loss.

        Returns:
            the loss at the parameters as they were.

        Raises:
            UsageError: there is no closure.
        """
        if closure is None:
            raise UsageError("Sam evaluates the loss twice: call step(closure)")
        with torch.enable_grad():
            loss = closure()
        moved = [p for p in self.params() if p.grad is not None]
        if moved:
            kept = [p.detach().clone() for p in moved]
            self._climb(moved)
            try:
                with torch.enable_grad():
                    closure()
            finally:
                for p, before in zip(moved, kept, strict=True):
                    p.copy_(before)
        self.base.step()
        return loss

    def _climb(self, params: list[Tensor]) -> None:
        ways, norms = [], []
        for p in params:
            assert p.grad is not None
            g = as_real(p.grad * p.abs() if self.adaptive else p.grad)
            norms.append(torch.linalg.vector_norm(g, dtype=accumulation_dtype(g.device)))
            ways.append(p.grad * p.abs().square() if self.adaptive else p.grad)
        device = norms[0].device
        norm = torch.linalg.vector_norm(torch.stack([one.to(device) for one in norms]))
        for p, way in zip(params, ways, strict=True):
            p.add_(way * (self.rho / (norm + EPS)).to(p.device))
