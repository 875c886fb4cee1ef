"""Gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.optimizers.base.options import Options
from lit_optim.optimizers.sgd import SGD


class Momentum(SGD):
    """A heavy ball: it keeps rolling the way the last gradients pushed it.

    Polyak 1964, Some methods of speeding up the convergence of iteration methods, USSR
    Computational Mathematics and Mathematical Physics 4(5).

        g = g + weight_decay p
        b = g at the first update, then momentum b + (1 - dampening) g
        p = p - lr b

    State: `momentum_buffer` (b), of the parameter's shape, if momentum > 0. The state dict is that
    of SGD with momentum.

    Args:
        params: parameters, or param groups.
        lr: step per unit of gradient; under a steady gradient it grows to lr / (1 - momentum).
        momentum: how much of the last direction is kept; it remembers about 1 / (1 - momentum)
            updates.
        dampening: how much less of the new gradient goes into the buffer; with dampening = momentum
            the buffer is an average and steps stay at lr.
        weight_decay: coupled: an L2 penalty's gradient.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 3e-1)
    fixed: ClassVar[dict[str, Any]] = {"nesterov": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        momentum: Annotated[float, ">= 0"] = 0.9,
        dampening: float = 0.0,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov=False, **options)
