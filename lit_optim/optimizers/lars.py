"""LARS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import norm, where
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.options import Options
from lit_optim.requirements import Need


class Lars(Elementwise):
    """Momentum for large batches: the gradient of each tensor is scaled to the tensor's own norm.

    You, Gitman & Ginsburg 2017, Large Batch Training of Convolutional Networks, arXiv:1708.03888,
    Alg. 1.

        ratio = trust_coefficient |p| / (|g| + weight_decay |p|), and 1 if |p| or |g| is 0
        v = momentum v + lr ratio (g + weight_decay p)
        p = p - v

    State: `momentum_buffer` (v), of the parameter's shape, if momentum > 0.

    Differs: in most implementations lr stands outside of v, so that a schedule also changes the
    steps that are already in it. For norms and biases a group may set trust_coefficient to null
    and weight_decay to 0, as is usual in vision.

    Args:
        params: parameters, or param groups.
        lr: about 1 to 30; a tensor changes by lr trust_coefficient of its norm in an update, and
            with momentum by up to 1 / (1 - momentum) times that.
        momentum: how much of the last step is kept.
        weight_decay: an L2 penalty's gradient, within what is scaled.
        trust_coefficient: how far to trust a gradient, as a share of the tensor; null: plain
            momentum, without a ratio.
    """

    needs: ClassVar[tuple[Need, ...]] = ("dense", "whole")
    lr_range: ClassVar[tuple[float, float]] = (1e-1, 1e2)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1.0,
        momentum: Annotated[float, "in [0, 1)"] = 0.9,
        weight_decay: Annotated[float, ">= 0"] = 5e-4,
        trust_coefficient: Annotated[float, "> 0"] | None = 1e-3,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            **options,
        )

    def coefficients(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        return 1.0, 1.0

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"momentum_buffer": State()} if group["momentum"] > 0 else {}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        trust = group["trust_coefficient"]
        return {
            "lr": group["lr"],
            "momentum": group["momentum"],
            "weight_decay": group["weight_decay"],
            "keeps_momentum": group["momentum"] > 0,
            "adapts": trust is not None,
            "trust": trust if trust is not None else 0.0,
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        lr = h.lr
        if h.adapts:
            of_p, of_g = norm(p), norm(g)
            ratio = h.trust * of_p / (of_g + h.weight_decay * of_p)
            lr = lr * where(of_p * of_g > 0, ratio, 1.0)
        v = lr * (g + h.weight_decay * p)
        if not h.keeps_momentum:
            return v, {}
        v = h.momentum * s.momentum_buffer + v
        return v, {"momentum_buffer": v}
