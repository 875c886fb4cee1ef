"""Resilient backpropagation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.errors import UsageError
from lit_optim.kernels.arithmetic import clip, sign, where
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.groups import accepted
from lit_optim.optimizers.base.options import Options


class Rprop(Elementwise):
    """Each coordinate has its own step size, which grows while its gradient keeps its sign.

    Riedmiller & Braun 1993, A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm; without weight backtracking: Igel & Hüsken 2000, Improving the Rprop Learning
    Algorithm, iRprop-.

        d = d * etas[1] if g h > 0, d * etas[0] if g h < 0, else d;   d within step_sizes
        g = 0 if g h < 0
        p = p - sign(g) d;   h = g

    It is for full batches: with mini-batches the sign changes by chance, and d shrinks.

    State: `prev` (h) and `step_size` (d), each of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: the first step size d. It is read at the first update only, so a schedule does nothing.
        etas: factors on d after a change of sign, in (0, 1), and without one, > 1.
        step_sizes: the smallest and the largest d.

    Raises:
        ValueError: etas or step_sizes that are out of order.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-2,
        etas: Annotated[tuple[float, float], "> 0"] = (0.5, 1.2),
        step_sizes: Annotated[tuple[float, float], ">= 0"] = (1e-6, 50.0),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr=lr, etas=etas, step_sizes=step_sizes, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:  # noqa: D102
        group = self.defaults | accepted(self, param_group)
        low, high = group["etas"]
        if not low < 1 < high:
            raise UsageError(f"etas must be one below 1 and one above it, got {[low, high]}")
        smallest, largest = group["step_sizes"]
        if smallest > largest:
            raise UsageError(
                f"step_sizes must be the smallest and the largest, got {[smallest, largest]}"
            )
        super().add_param_group(group)

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        return 1.0, 1.0

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"prev": State(), "step_size": State("non-negative", group["lr"])}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        (shrink, grow), (smallest, largest) = group["etas"], group["step_sizes"]
        return {"shrink": shrink, "grow": grow, "smallest": smallest, "largest": largest}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        agree = g * s.prev
        d = where(agree < 0, h.shrink * s.step_size, s.step_size)
        d = clip(where(agree > 0, h.grow * s.step_size, d), h.smallest, h.largest)
        g = where(agree < 0, 0.0, g)
        return sign(g) * d, {"prev": g, "step_size": d}
