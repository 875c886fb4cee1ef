"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class Adadelta(Elementwise):
    """Steps as large as the recent ones, in the gradient's direction: no lr to find.

    Zeiler 2012, ADADELTA: An Adaptive Learning Rate Method, arXiv:1212.5701, Alg. 1.

        g = g + weight_decay p
        v = rho v + (1 - rho) g²
        u = sqrt(d + eps) / sqrt(v + eps) g
        d = rho d + (1 - rho) u²;   p = p - lr u

    State: `square_avg` (v) and `acc_delta` (d), each of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: a factor on the step that it finds itself; the paper has 1.
        rho: both averages remember about 1 / (1 - rho) updates.
        eps: in units of squared gradient and of squared step: the first steps are about
            sqrt(eps / (1 - rho)), so a larger one starts faster.
        weight_decay: coupled: an L2 penalty's gradient.
    """

    lr_range: ClassVar[tuple[float, float]] = (1.0, 1e2)
    coupled_weight_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1.0,
        rho: Annotated[float, "in [0, 1]"] = 0.9,
        eps: Annotated[float, ">= 0"] = 1e-6,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, **options)

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"square_avg": State("non-negative"), "acc_delta": State("non-negative")}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {"rho": group["rho"], "eps": group["eps"]}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        v = average_squares(s.square_avg, g, h.rho)
        u = sqrt(s.acc_delta + h.eps) / sqrt(v + h.eps) * g
        return u, {"square_avg": v, "acc_delta": average_squares(s.acc_delta, u, h.rho)}
