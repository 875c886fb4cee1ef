"""The base of algorithms that need a whole tensor at once: its norm, its rows and columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.options import OPTIONS, apply_update_options
from lit_optim.optimizers.base.types import Group, TensorUpdate
from lit_optim.sharding import Steps


class Tensorwise(OptimizerBase):
    """An optimizer that computes its direction from a whole tensor.

    A subclass writes `new_state` and `direction`, and `scalars` for what it derives.
    """

    #: Whether it has native kernels.
    has_kernel: ClassVar[bool] = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: it sets an option for optimizers that compute each coordinate by itself:
                another precision of states or parameters, or kernels that do not exist.
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

    def direction(self, g: Tensor, p: Tensor, s: Any, h: Any) -> TensorUpdate:
        """The algorithm as a pure function: returns the direction u and the new states.

        Args:
            g: the gradient, at least float32.
            p: the parameter, at least float32.
            s: the tensors of `new_state`, by name.
            h: the hyperparameters, and what `scalars` derives from them, by name.
        """
        raise NotImplementedError

    def update_shards(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> Steps:
        Tensorwise.update(self, group, batch, h, t)  # DTensors send what each operation needs
        yield from ()

    def update(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> None:
        for p, gradient, state in zip(batch.params, batch.grads, batch.states, strict=True):
            self.reject_sparse(gradient)
            x, g = p.to(compute_dtype(p)), gradient.to(compute_dtype(p))
            g = -g if h.maximize else g
            g = g + h.l2 * x if h.coupled else g
            u, new = self.direction(g, x, SimpleNamespace(**state), h)
            a, b, u = apply_update_options(u, g, x, h)
            p.copy_(a * x - b * u)
            for name, value in new.items():
                state[name].copy_(value)
