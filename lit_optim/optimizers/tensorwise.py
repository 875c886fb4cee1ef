"""Algorithms that look at a whole tensor: norms, rows and columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from lit_optim.optimizers.walk import Prepared, Walk, wide


class Tensorwise(Walk):
    """An optimizer whose direction needs the whole tensor.

    A subclass writes `new_state`, `scalars` and `direction`.
    """

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
        self, p: Tensor, g: Tensor, state: dict[str, Tensor], prepared: Prepared
    ) -> None:
        h, a, b = prepared
        x = p.to(wide(p))
        g = g.to(wide(p))
        u, new = self.direction(g + h.l2 * x if h.l2 else g, x, SimpleNamespace(**state), h)
        p.copy_(a * x - b * u)
        for name, value in new.items():
            state[name].copy_(value)
