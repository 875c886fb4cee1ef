"""Algorithms that look at a whole tensor: norms, rows and columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.optimizer import Batch, OptimizerBase
from lit_optim.optimizers.base.options import OPTIONS, moved


class Tensorwise(OptimizerBase):
    """An optimizer whose direction needs the whole tensor.

    A subclass writes `new_state`, `scalars` and `direction`.
    """

    #: Whether there are native kernels for it.
    has_kernel: ClassVar[bool] = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: it asks for what is for one coordinate at a time: states or parameters at
                another precision, or kernels where there are none.
        """
        super().add_param_group(param_group)
        group, name = self.param_groups[-1], type(self).__name__
        if group["executor"] == "native" and not self.has_kernel:
            raise UsageError(f"executor=native: {name} looks at whole tensors, so it has no kernel")
        for key in ("state_dtype", "master"):
            if group[key] != OPTIONS[key]:
                raise UsageError(
                    f"{key}={group[key]} is for optimizers that look at one coordinate at a time, "
                    f"which {name} does not"
                )

    def direction(self, g: Tensor, p: Tensor, s: Any, h: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The algorithm, pure: old states `s` in, direction u and new states out.

        Args:
            g: the gradient, at least float32.
            p: the parameter, at least float32.
            s: the tensors of `new_state`, by name.
            h: the numbers of `scalars`, by name.
        """
        raise NotImplementedError

    def update(  # noqa: D102
        self, group: dict[str, Any], batch: Batch, h: SimpleNamespace, t: int
    ) -> None:
        for p, gradient, state in zip(batch.params, batch.grads, batch.states, strict=True):
            self.refuse_sparse(gradient)
            x, g = p.to(compute_dtype(p)), gradient.to(compute_dtype(p))
            g = -g if h.maximize else g
            g = g + h.l2 * x if h.coupled else g
            u, new = self.direction(g, x, SimpleNamespace(**state), h)
            a, b, u = moved(u, g, x, h)
            p.copy_(a * x - b * u)
            for name, value in new.items():
                state[name].copy_(value)
