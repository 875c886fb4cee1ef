"""Lion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import lerp, sign
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class Lion(Elementwise):
    """Every coordinate moves by exactly lr, in the sign of an interpolated momentum.

    Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, Alg. 2.

        u = sign(b1 m + (1 - b1) g);   m = b2 m + (1 - b2) g
        p = p - lr (u + weight_decay p)

    State: `exp_avg` (m), of the parameter's shape: half of Adam's.

    Args:
        params: parameters, or param groups.
        lr: the size of every step of every coordinate; 3 to 10 times smaller than AdamW's.
        betas: b1 says how much of the step is momentum, b2 how long the momentum remembers.
        weight_decay: decoupled: multiplied by lr, so 3 to 10 times larger than AdamW's.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-5, 1e-2)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-4,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.99),
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, **options)

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"exp_avg": State()}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b1, b2 = group["betas"]
        return {"b1": b1, "b2": b2}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        return sign(lerp(s.exp_avg, g, 1 - h.b1)), {"exp_avg": lerp(s.exp_avg, g, 1 - h.b2)}
