"""Signum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.errors import UsageError
from lit_optim.kernels.arithmetic import lerp, sign
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options


class Signum(Elementwise):
    """Every coordinate moves by exactly lr, in the sign of the momentum.

    Bernstein et al. 2018, signSGD: Compressed Optimisation for Non-Convex Problems,
    arXiv:1802.04434, Alg. 1 (signSGD: momentum 0) and 2.

        m = momentum m + (1 - momentum) g
        u = sign(momentum m + (1 - momentum) g) if nesterov else sign(m)
        p = p - lr (u + weight_decay p)

    State: `momentum_buffer` (m), of the parameter's shape, if momentum > 0.

    Args:
        params: parameters, or param groups.
        lr: the size of every step of every coordinate; 3 to 10 times smaller than AdamW's.
        momentum: averages the gradient over about 1 / (1 - momentum) steps.
        nesterov: count the gradient once more; wants momentum > 0.
        weight_decay: decoupled: multiplied by lr, so 3 to 10 times larger than AdamW's.

    Raises:
        ValueError: nesterov without momentum.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-5, 1e-2)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-4,
        momentum: Annotated[float, "in [0, 1)"] = 0.9,
        nesterov: bool = False,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            **options,
        )
        if nesterov and momentum == 0:
            raise UsageError("nesterov must go with momentum > 0")

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"momentum_buffer": State()} if group["momentum"] > 0 else {}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        momentum = group["momentum"]
        return {
            "momentum": momentum,
            "keeps_momentum": momentum > 0,
            "nesterov": group["nesterov"],
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        if not h.keeps_momentum:
            return sign(g), {}
        m = lerp(s.momentum_buffer, g, 1 - h.momentum)
        return sign(lerp(m, g, 1 - h.momentum) if h.nesterov else m), {"momentum_buffer": m}
