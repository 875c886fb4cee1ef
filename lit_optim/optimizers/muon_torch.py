"""Muon, torch's own."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.optimizers.base import Group, TorchOptimizer
from lit_optim.optimizers.base.types import Iterations, NonNegative
from lit_optim.sharding import Steps, is_sharded, local_gradient, local_tensor, run_together
from lit_optim.sharding.exchange import Exchange
from lit_optim.sharding.owners import Owners

if torch.__version__ < "2.9":
    raise UsageError(f"MuonTorch needs torch 2.9 or newer, this is {torch.__version__}")

from torch.optim import _muon


class MuonTorch(TorchOptimizer, torch.optim.Muon):
    """torch's Muon: orthogonalized momentum, for models that have only matrices.

    Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks,
    kellerjordan.github.io/posts/muon; match_rms_adamw: Liu et al. 2025, Muon is Scalable for LLM
    Training, arXiv:2502.16982.

        b = momentum b + (1 - momentum) g
        u = momentum b + (1 - momentum) g if nesterov else b
        u = u / max(|u|, eps), then ns_steps times: A = u u';   u = c1 u + (c2 A + c3 A A) u
        p = p - lr weight_decay p - lr s u, where s of a matrix with m rows and n columns is
            sqrt(max(1, m / n)) ("original") or 0.2 sqrt(max(m, n)) ("match_rms_adamw")

    This is torch's own class: it computes in bfloat16, and takes matrices only.

    State: `momentum_buffer` (b), of the parameter's shape and dtype.

    Args:
        params: matrices, or param groups of them.
        lr: the step size in the spectral norm ("original"), or about that of AdamW
            ("match_rms_adamw").
        weight_decay: decoupled: p shrinks by lr weight_decay.
        momentum: decay rate of the average of gradients.
        nesterov: look ahead along the momentum.
        ns_coefficients: c1, c2 and c3 of the iteration.
        eps: the smallest norm that a matrix is divided by.
        ns_steps: the number of iterations; more make the singular values more equal.
        adjust_lr_fn: the factor s; null is "original".

    Raises:
        ValueError: a parameter is not a matrix.
    """

    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.1
    momentum: NonNegative = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    eps: NonNegative = 1e-7
    ns_steps: Iterations = 5
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None

    requirements = ("dense", "whole")
    lr_range = (1e-3, 1e-1)
    takes_matrices_only = takes_shards = True
    needs_shapes = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; of those that are sharded, one process each.

        What is computed for each element by itself stays with the shards, as the states do.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        params = [(p, p.grad) for group in self.param_groups for p in group["params"]]
        sharded = [(p, g) for p, g in params if g is not None and is_sharded(p)]
        for p, _ in sharded:
            p.grad = None
        try:
            self.run_torch_step()
        finally:
            for p, g in sharded:
                p.grad = g
        if sharded:
            with torch.no_grad():
                run_together([self._step_shards(group) for group in self.param_groups])
        return loss

    def _step_shards(self, group: Group) -> Steps:
        own = [p for p in group["params"] if is_sharded(p)]
        owners = self.__dict__.setdefault("_owners", Owners())
        boxes = {p: [tuple((0, size) for size in p.shape)] for p in own}
        owners.assign((p, boxes[p], [float(p.numel() * min(p.shape))]) for p in own)
        params = [p for p in own if p.grad is not None]
        updates = []
        for p in params:
            state, g = self.state[p], local_gradient(p, p.grad)
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p, dtype=g.dtype)
            b = local_tensor(state["momentum_buffer"]).lerp_(g, 1 - group["momentum"])
            u = g.lerp(b, group["momentum"]) if group["nesterov"] else b
            updates.append(u.bfloat16())  # as torch begins
        parts = [owners.parts(p, boxes[p]) for p in params]

        def compute(_: list[int], wholes: list[Tensor]) -> list[Tensor]:
            settings = group["ns_coefficients"], group["ns_steps"], group["eps"]
            return [_muon._zeropower_via_newtonschulz(u, *settings) for u in wholes]

        us = yield Exchange(updates, parts, compute, [torch.bfloat16] * len(params))
        lr = float(group["lr"])
        for p, u in zip(params, us, strict=True):
            x = local_tensor(p).mul_(1 - lr * group["weight_decay"])
            x.add_(u, alpha=-_muon._adjust_lr(lr, group["adjust_lr_fn"], p.shape))
