"""Adam for sparse gradients, torch's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar

import torch

from lit_optim.hyperparameters import check, plain_values
from lit_optim.optimizers.base.groups import accepted
from lit_optim.requirements import Need

#: Without the wrapper that calls the hooks of a step: ours has it already.
_step = inspect.unwrap(torch.optim.SparseAdam.step)


class SparseAdam(torch.optim.SparseAdam):
    """Adam that leaves alone what has no gradient: the rows of words that were not in the batch.

    Kingma & Ba 2014, Adam: A Method for Stochastic Optimization, arXiv:1412.6980, Alg. 1; masked,
    as torch has it.

        where g has an entry:
            m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
            p = p - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

    t counts the updates of the parameter, so the averages of a rare row are corrected as if they
    had seen all of them. Differs from torch: dense gradients are taken too; their zeros are no
    entries. It has no weight decay.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape and dtype.

    Args:
        params: parameters, or param groups; their gradients are sparse (nn.Embedding(sparse=True))
            or dense.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) of its entries, b2 its square.
        eps: keeps the denominator from zero.
        maximize: climb instead of descend.
    """

    needs: ClassVar[tuple[Need, ...]] = ("sparse",)
    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, "> 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, "> 0"] = 1e-8,
        maximize: bool = False,
    ) -> None:
        hyper: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize}
        check(SparseAdam.__init__, hyper)
        hyper = plain_values(hyper)
        super().__init__(params, **hyper)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; a key that is no hyperparameter of this optimizer is refused."""
        super().add_param_group(accepted(self, param_group))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every entry that has a gradient; the gradients are not written."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"]]
        dense = [(p, p.grad) for p in params if p.grad is not None and not p.grad.is_sparse]
        try:
            for p, g in dense:
                p.grad = g.to_sparse()
            with torch.no_grad():
                _step(self)
        finally:
            for p, g in dense:
                p.grad = g
        return loss
