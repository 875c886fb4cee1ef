"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from torch.optim.adagrad import adagrad
from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import sqrt, square
from lit_optim.optimizers.base.elementwise import Elementwise, State
from lit_optim.optimizers.base.optimizer import Batch
from lit_optim.optimizers.base.options import Options
from lit_optim.requirements import Need


class Adagrad(Elementwise):
    """Each coordinate slows down with the sum of its squared gradients.

    Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization, JMLR 12, Fig. 1.

        g = g + weight_decay p
        G = G + g²;   p = p - lr / (1 + (t - 1) lr_decay) * g / (sqrt(G) + eps)

    State: `sum` (G), of the parameter's shape.

    Args:
        params: parameters, or param groups.
        lr: the size of the first step of a coordinate; later ones shrink as 1 / sqrt(t).
        lr_decay: a further decay with the step count.
        weight_decay: coupled: an L2 penalty's gradient.
        initial_accumulator_value: where G starts; larger is slower at first.
        eps: keeps the denominator from zero.
    """

    lr_range: ClassVar[tuple[float, float]] = (1e-3, 3e-1)
    coupled_weight_decay = True
    needs: ClassVar[tuple[Need, ...]] = ()
    takes_sparse = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1e-2,
        lr_decay: Annotated[float, ">= 0"] = 0.0,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        initial_accumulator_value: Annotated[float, ">= 0"] = 0.0,
        eps: Annotated[float, ">= 0"] = 1e-10,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **options,
        )

    def stays_without_gradient(self, group: dict[str, Any]) -> bool:  # noqa: D102
        return True

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"sum": State("non-negative", group["initial_accumulator_value"])}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        return {"eps": group["eps"]}

    def effective_lr(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> float:
        return float(group["lr"] / (1 + (t - 1) * group["lr_decay"]))

    def state_dict(self) -> dict[str, Any]:
        """As torch's, which has a state for parameters that were never updated too."""
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.start(p, group)
        return super().state_dict()

    def torchs(self, group: dict[str, Any], batch: Batch, t: int) -> bool:  # noqa: D102
        if batch.params[0].device.type != "cpu":
            return False
        adagrad(
            batch.params,
            batch.grads,
            batch.column("sum"),
            batch.steps(t),
            fused=True,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        return True

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        total = s.sum + square(g)
        return g / (sqrt(total) + h.eps), {"sum": total}
