"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from torch.optim.sgd import sgd
from typing_extensions import Unpack

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.optimizer import Batch
from lit_optim.optimizers.base.options import Options
from lit_optim.requirements import Need


class SGD(Elementwise):
    """Downhill by lr times the gradient, or times a running sum of gradients.

    Robbins & Monro 1951; heavy ball: Polyak 1964; nesterov: Nesterov 1983, in the form of
    Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.

        g = g + weight_decay p
        b = g at the first update, then momentum b + (1 - dampening) g
        u = g + momentum b if nesterov else b;   p = p - lr u

    State: `momentum_buffer` (b), of the parameter's shape, if momentum > 0.

    Args:
        params: parameters, or param groups.
        lr: step per unit of gradient. With momentum the step grows to lr / (1 - momentum).
        momentum: how much of the last direction is kept.
        dampening: how much less of the new gradient goes into the buffer.
        weight_decay: coupled: an L2 penalty's gradient.
        nesterov: look ahead along the momentum; wants momentum > 0 and dampening 0.

    Raises:
        ValueError: nesterov without momentum, or with dampening.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 1.0)
    coupled_weight_decay = True
    needs: ClassVar[tuple[Need, ...]] = ()
    takes_sparse = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        momentum: Annotated[float, ">= 0"] = 0.0,
        dampening: float = 0.0,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            **options,
        )
        if nesterov and (momentum == 0 or dampening != 0):
            raise UsageError("nesterov must go with momentum > 0 and dampening 0")

    def stays_without_gradient(self, group: dict[str, Any]) -> bool:  # noqa: D102
        return bool(group["momentum"] == 0)

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"momentum_buffer": State()} if group["momentum"] > 0 else {}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "momentum": group["momentum"],
            "take": 1.0 if t == 1 else 1 - group["dampening"],  # the first gradient goes in whole
            "keeps_momentum": group["momentum"] > 0,
            "nesterov": group["nesterov"],
        }

    def torchs(self, group: dict[str, Any], batch: Batch, t: int) -> bool:  # noqa: D102
        keeps = group["momentum"] > 0
        if keeps and t == 1:
            return False  # torch has no buffer yet, we have one of zeros
        sgd(
            batch.params,
            batch.grads,
            list(batch.column("momentum_buffer")) if keeps else [None] * len(batch.params),
            fused=True,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        return True

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        if not h.keeps_momentum:
            return g, {}
        b = h.momentum * s.momentum_buffer + h.take * g
        return (g + h.momentum * b if h.nesterov else b), {"momentum_buffer": b}
