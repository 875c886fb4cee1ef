"""ADOPT."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, clip, lerp, sqrt
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.optimizer import power
from lit_optim.optimizers.base.options import Options


class Adopt(Elementwise):
    """Adam that converges with any b2: a gradient is divided by what its predecessors were.

    Taniguchi et al. 2024, ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate,
    arXiv:2411.02853, Alg. 2.

        at the first update v = g², and nothing moves; then
        c = (t - 1)^clip_exp
        m = b1 m + (1 - b1) clip(g / max(sqrt(v), eps), -c, c)
        p = p - lr (m + weight_decay p)
        v = b2 v + (1 - b2) g²

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape.

    Differs: the authors' code has coupled decay by default, timm and pytorch_optimizer likewise; at
    the first update that moves c is 1, as in the authors' code, and 2^0.25 in pytorch_optimizer.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages the directions over about 1 / (1 - b1) steps, b2 the squared gradient.
        eps: the least that a gradient is divided by.
        clip_exp: how fast the bound on a divided gradient grows; null: no bound, as in Alg. 1,
            where a coordinate whose first gradient was about 0 leaps.
        weight_decay: decoupled: multiplied by lr, not seen by the averages.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.9999),
        eps: Annotated[float, ">= 0"] = 1e-6,
        clip_exp: Annotated[float, ">= 0"] | None = 0.25,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            clip_exp=clip_exp,
            weight_decay=weight_decay,
            **options,
        )

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        return 0.0 if t == 1 else float(group["lr"])

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State(), "exp_avg_sq": State("non-negative")}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        (b1, b2), bounded = group["betas"], group["clip_exp"] is not None
        return {
            "take1": 0.0 if t == 1 else 1 - b1,
            "keep2": 0.0 if t == 1 else b2,
            "eps": group["eps"],
            "bounded": bounded,
            "bound": power(t - 1, group["clip_exp"]) if bounded else 0.0,
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        n = g / clip(sqrt(s.exp_avg_sq), h.eps, float("inf"))
        n = clip(n, -h.bound, h.bound) if h.bounded else n
        m = lerp(s.exp_avg, n, h.take1)
        return m, {"exp_avg": m, "exp_avg_sq": average_squares(s.exp_avg_sq, g, h.keep2)}
