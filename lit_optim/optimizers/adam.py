"""Adam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.options import Options


class Adam(AdamW):
    """AdamW's rule on a gradient that has weight_decay * p added to it.

    Kingma & Ba 2014, Adam: A Method for Stochastic Optimization, arXiv:1412.6980, Alg. 1.

        g = g + weight_decay p;   u as in AdamW;   p = p - lr u

    The decay passes through the averages and the division, so it hardly regularises coordinates
    with large gradients; AdamW was made to mend this.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of a coordinate.
        betas: b1 averages the gradient over about 1 / (1 - b1) steps, b2 its square.
        eps: keeps the denominator from zero.
        weight_decay: coupled: an L2 penalty's gradient.
        amsgrad: never let a step grow because v shrank.
        decoupled_weight_decay: shrink the parameter by lr weight_decay instead; this is AdamW.
    """

    coupled_weight_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-3,
        betas: Annotated[tuple[float, float], "in [0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super(AdamW, self).__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )
