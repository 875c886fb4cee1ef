"""Muon, torch's own."""

from typing import Literal

import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base import TorchOptimizer
from lit_optim.optimizers.base.types import Iterations, NonNegative

if torch.__version__ < "2.9":
    raise UsageError(f"MuonTorch needs torch 2.9 or newer, this is {torch.__version__}")


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
    takes_matrices_only = True
    needs_shapes = True
