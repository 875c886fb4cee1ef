"""Nesterov's accelerated gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.optimizers.base.options import Options
from lit_optim.optimizers.sgd import SGD


class NAG(SGD):
    """A heavy ball that steps as if it had already rolled on, so it brakes in time.

    Nesterov 1983, A method of solving a convex programming problem with convergence rate O(1/k²),
    Soviet Mathematics Doklady 27; in the form of Sutskever et al. 2013, On the importance of
    initialization and momentum in deep learning. Here p is the point ahead, where g is taken.

        g = g + weight_decay p
        b = momentum b + g
        p = p - lr (g + momentum b)

    State: `momentum_buffer` (b), of the parameter's shape. The state dict is that of SGD with
    momentum and nesterov.

    Args:
        params: parameters, or param groups.
        lr: step per unit of gradient; under a steady gradient it grows to lr / (1 - momentum).
        momentum: how much of the last direction is kept; it remembers about 1 / (1 - momentum)
            updates.
        weight_decay: coupled: an L2 penalty's gradient.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 3e-1)
    fixed: ClassVar[dict[str, Any]] = {"dampening": 0.0, "nesterov": True}

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        momentum: Annotated[float, "> 0"] = 0.9,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay, nesterov=True, **options)
