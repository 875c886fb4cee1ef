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
from lit_optim.sharding import Sharding, add_up, local_gradient, local_tensor
from lit_optim.sharding.checks import check_placement
from lit_optim.wrappers.wrapper import Wrapper, unwrap

EPS = 1e-12


class Sam(Wrapper):
    """Updates by the gradient at the worst point nearby, which leads to flat minima.

    Foret et al. 2021, Sharpness-Aware Minimization, arXiv:2010.01412, Alg. 1; adaptive: Kwon et al.
    2021, ASAM, arXiv:2102.11600, without its small eta.

        g = gradient at p;   e = rho g / |g|,   adaptive: rho |p|² g / ||p| g|
        update p by the gradient at p + e

    Norms are over all parameters. In a complex parameter |p| is the modulus of each number, so that
    its real and imaginary parts have the same scale.

    Each update evaluates the loss twice, so `step` needs a closure, which Lightning passes. During
    the second evaluation the parameters hold p + e; `step` restores p before the base optimizer
    runs. Lightning's gradient clipping applies to both gradients: clipping by norm does not change
    e, and clips the gradient of the update. The statistics of batch norm see both evaluations, and
    a training loss is logged twice. On several devices all ranks have the same gradient, and hence
    the same e; where parameters are sharded, one message adds up the norm. Gradient accumulation
    and loss scalers (16-mixed) are not supported.

    State: none; within a step one copy of the parameters.

    Args:
        base: the optimizer that updates the parameters.
        rho: the radius of the neighborhood; adaptive SAM needs about ten times the usual 0.05.
        adaptive: scale the neighborhood by |p| (ASAM), so that rescaled weights change nothing.
    """

    can_wrap_averaging: ClassVar[bool] = True
    can_wrap_closures: ClassVar[bool] = False
    own_requirements: ClassVar[tuple[str, ...]] = ("closure", "whole")

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
            The loss at the parameters before the update.

        Raises:
            UsageError: there is no closure, or FSDP1 has flattened a parameter.
        """
        if closure is None and self._is_initializing():
            self.base.step()
            return None
        if closure is None:
            raise UsageError("Sam evaluates the loss twice: call step(closure)")
        for k, p in enumerate(self.params()):
            check_placement("Sam", f"number {k}", p, looks_at_whole=True)
        with torch.enable_grad():
            loss = closure()
        perturbed = [p for p in self.params() if p.grad is not None]
        if perturbed:
            kept = [local_tensor(p).detach().clone() for p in perturbed]
            self._perturb(perturbed)
            try:
                with torch.enable_grad():
                    closure()
            finally:
                for p, before in zip(perturbed, kept, strict=True):
                    local_tensor(p).copy_(before)
        self.base.step()
        return loss

    def _is_initializing(self) -> bool:
        """Whether the base only makes its states, as torch.distributed.checkpoint wants it."""
        inner: Any = unwrap(self)
        return hasattr(inner, "is_initializing") and inner.is_initializing()

    def _perturb(self, params: list[Tensor]) -> None:
        directions, sums, shards = [], [], []
        for p in params:
            assert p.grad is not None
            x, g = local_tensor(p), local_gradient(p, p.grad)
            scaled = as_real(g * x.abs() if self.adaptive else g)
            length = torch.linalg.vector_norm(scaled, dtype=accumulation_dtype(x.device))
            sums.append((length * length).reshape(1))
            shards.append(Sharding.of(p))
            directions.append(g * x.abs().square() if self.adaptive else g)
        device = sums[0].device
        norm = torch.cat([x.to(device) for x in add_up(sums, shards)]).sum().sqrt()
        for p, direction in zip(params, directions, strict=True):
            x = local_tensor(p)
            x.add_(direction * (self.rho / (norm + EPS)).to(x.device))
