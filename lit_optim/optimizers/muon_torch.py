"""Muon, torch's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, plain_values
from lit_optim.optimizers.base.groups import accepted, with_names
from lit_optim.requirements import Need

if torch.__version__ < "2.9":
    raise UsageError(f"MuonTorch needs torch 2.9 or newer, this is {torch.__version__}")


class MuonTorch(torch.optim.Muon):
    """torch's Muon: every matrix moves by a momentum whose singular values are made about equal.

    Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks,
    kellerjordan.github.io/posts/muon; match_rms_adamw: Liu et al. 2025, Muon is Scalable for LLM
    Training, arXiv:2502.16982.

        b = momentum b + (1 - momentum) g
        u = momentum b + (1 - momentum) g if nesterov else b
        u = u / max(|u|, eps), then ns_steps times: A = u u';   u = c1 u + (c2 A + c3 A A) u
        p = p - lr weight_decay p - lr s u, where s of a matrix with m rows and n columns is
            sqrt(max(1, m / n)) ("original") or 0.2 sqrt(max(m, n)) ("match_rms_adamw")

    It is torch's class as it is: in bfloat16, for matrices only, all of them alike.

    State: `momentum_buffer` (b), of the parameter's shape and dtype.

    Args:
        params: matrices, or param groups of them.
        lr: the size of a step in the spectral norm ("original"), or about that of AdamW
            ("match_rms_adamw").
        weight_decay: decoupled: multiplied by lr.
        momentum: how much of the average of gradients is kept.
        nesterov: look ahead along the momentum.
        ns_coefficients: c1, c2 and c3 of the iteration.
        eps: keeps the norm from zero.
        ns_steps: iterations; more make the singular values more equal.
        adjust_lr_fn: the factor s; null is "original".

    Raises:
        ValueError: a parameter that is no matrix.
    """

    needs: ClassVar[tuple[Need, ...]] = ("dense", "whole")
    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        weight_decay: Annotated[float, ">= 0"] = 0.1,
        momentum: Annotated[float, ">= 0"] = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: Annotated[float, ">= 0"] = 1e-7,
        ns_steps: Annotated[int, "in [1, 99]"] = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
    ) -> None:
        hyper: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        check(MuonTorch.__init__, hyper)
        hyper = plain_values(hyper)
        super().__init__(params, **hyper)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices.

        Raises:
            ValueError: naming the parameter that is none, or a key that is no hyperparameter.
        """
        group = with_names(accepted(self, param_group))
        names = group.get("param_names", [f"number {i}" for i in range(len(group["params"]))])
        if any(p.is_complex() for p in group["params"]):
            raise UsageError("MuonTorch takes no complex parameters")
        for name, p in zip(names, group["params"], strict=True):
            if p.ndim != 2:
                raise UsageError(
                    f"MuonTorch takes matrices only, but parameter {name} has shape "
                    f"{tuple(p.shape)}: use a model of matrices only (model=mlp model.bias=false) "
                    "or optimizer=adamw"
                )
        super().add_param_group(group)
