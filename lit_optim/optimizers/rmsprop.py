"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, sqrt, square, where
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class RMSprop(Elementwise):
    """Each gradient is divided by its own recent size, so that all coordinates keep moving.

    Tieleman & Hinton 2012, Neural Networks for Machine Learning, lecture 6.5; centered: Graves
    2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850.

        g = g + weight_decay p
        v = alpha v + (1 - alpha) g²
        s = sqrt(v - a²) if centered, with a = alpha a + (1 - alpha) g, else sqrt(v)
        b = momentum b + g / (s + eps);   p = p - lr b

    Differs from torch: a variance v - a² that rounding makes negative counts as 0, not as NaN, and
    one of a v that has overflowed is infinite, not NaN.

    State: `square_avg` (v), of the parameter's shape; if centered also `grad_avg` (a), with
    momentum > 0 also `momentum_buffer` (b).

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate; the first is 1 / sqrt(1 - alpha) times that, for v
            starts at 0 and is not corrected.
        alpha: v remembers about 1 / (1 - alpha) updates.
        eps: keeps the denominator from zero.
        weight_decay: coupled: an L2 penalty's gradient.
        momentum: how much of the last step is kept; steps grow to lr / (1 - momentum).
        centered: divide by the deviation of the gradient instead of its size.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-4, 3e-2)
    coupled_weight_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-2,
        alpha: Annotated[float, ">= 0"] = 0.99,
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        momentum: Annotated[float, ">= 0"] = 0.0,
        centered: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            **options,
        )

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        states = {"square_avg": State("non-negative")}
        if group["momentum"] > 0:
            states["momentum_buffer"] = State()
        if group["centered"]:
            states["grad_avg"] = State()
        return states

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "alpha": group["alpha"],
            "eps": group["eps"],
            "momentum": group["momentum"],
            "keeps_momentum": group["momentum"] > 0,
            "centered": group["centered"],
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        v = average_squares(s.square_avg, g, h.alpha)
        new = {"square_avg": v}
        if h.centered:
            mean = new["grad_avg"] = lerp(s.grad_avg, g, 1 - h.alpha)
            variance = clip(v - square(mean), 0.0, inf)
            v = where(v < inf, variance, v)  # infinite: no difference of infinities
        u = g / (sqrt(v) + h.eps)
        if h.keeps_momentum:
            u = new["momentum_buffer"] = h.momentum * s.momentum_buffer + u
        return u, new
