"""Adam for sparse gradients, torch's own."""

from collections.abc import Callable
from typing import Any

import torch

from lit_optim.optimizers.base import TorchOptimizer
from lit_optim.optimizers.base.torch_own import Childless
from lit_optim.optimizers.base.types import Betas, Positive


class _TorchSparseAdam(Childless, torch.optim.SparseAdam):
    pass


class SparseAdam(TorchOptimizer, _TorchSparseAdam):
    """Adam for sparse gradients: only the entries that have a gradient are updated.

    Kingma & Ba 2014, Adam: A Method for Stochastic Optimization, arXiv:1412.6980, Alg. 1; masked,
    in torch's version.

        where g has an entry:
            m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
            p = p - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

    t counts the updates of the parameter, so the averages of a rare row are corrected as if it had
    been in all of them. There is no weight decay.

    Differs: dense gradients are accepted too; their zeros are not entries.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape and dtype.

    Args:
        params: parameters, or param groups; their gradients are sparse (nn.Embedding(sparse=True))
            or dense.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        maximize: ascend instead of descend.
    """

    lr: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    maximize: bool = False

    requirements = ("sparse",)
    lr_range = (1e-4, 1e-1)
    reads_values = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every entry that has a gradient; gradients are not changed."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        with self.sparse_gradients():
            self.run_torch_step()
        return loss
