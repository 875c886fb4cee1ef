"""Algorithms that look at a whole tensor: norms, rows and columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.optimizers.walk import Member, Prepared, Walk, decayed, wide


class Tensorwise(Walk):
    """An optimizer whose direction needs the whole tensor.

    A subclass writes `new_state`, `scalars` and `direction`.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: it asks for native kernels, which are for one coordinate at a time.
        """
        super().add_param_group(param_group)
        if self.param_groups[-1]["executor"] == "native":
            name = type(self).__name__
            raise UsageError(f"executor=native: {name} looks at whole tensors, so it has no kernel")

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
        self, group: dict[str, Any], members: list[Member], prepared: Prepared
    ) -> None:
        h, a, b = prepared
        for p, gradient, state in members:
            x, g = p.to(wide(p)), gradient.to(wide(p))
            g = -g if h.maximize else g
            g = g + h.l2 * x if h.coupled else g
            u, new = self.direction(g, x, SimpleNamespace(**state), h)
            p.copy_(a * x - b * decayed(u, x, h))
            for name, value in new.items():
                state[name].copy_(value)
