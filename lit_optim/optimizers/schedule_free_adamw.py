"""Schedule-free AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt as host_sqrt
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.kernels.arithmetic import average_squares, sqrt
from lit_optim.optimizers.base.elementwise import State
from lit_optim.optimizers.base.options import Options
from lit_optim.optimizers.base.schedule_free import ScheduleFree
from lit_optim.requirements import Need


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW at a constant lr whose result is an average of its way, good at any time.

    Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682, Alg. 1.

        size = lr min(1, t / warmup_steps)
        v = b2 v + (1 - b2) g²
        d = g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay y
        z = z - size d
        c = w / (sum of w so far), with w = t^r (largest size so far)^weight_lr_power
        x = (1 - c) x + c z;   y = (1 - b1) z + b1 x

    While training the parameters are y, where g is taken; `eval()` makes them x, `train()` makes
    them y again, and a step in between is refused. In 16 bits each change rounds once more.

    State: `z` and `exp_avg_sq` (v), each of the parameter's shape, and the numbers `weight_sum` and
    `lr_max`; x is made from y and z. Group: `train_mode`.

    Differs: as the authors' package, not the paper, v is bias-corrected by itself and the largest
    size weighs, not the last; unlike there, a parameter that wakes up late counts its own updates.

    Args:
        params: parameters, or param groups.
        lr: the size of a step of z; 1 to 10 times that of an AdamW with a schedule.
        betas: b1 says how near y is to x, as large as a momentum, up to 0.98 in very long runs,
            and the same from the first update to the last; b2 averages the squared gradient.
        eps: keeps the denominator from zero.
        weight_decay: multiplied by lr, taken at y.
        warmup_steps: updates in which the size grows to lr.
        r: above 0, later updates weigh more in x.
        weight_lr_power: how much less updates of a small size weigh in x.
    """

    needs: ClassVar[tuple[Need, ...]] = ("dense", "train_eval", "steady_lr")
    lr_range: ClassVar[tuple[float, float]] = (3e-4, 3e-1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 2.5e-3,
        betas: Annotated[tuple[float, float], "in (0, 1)"] = (0.9, 0.999),
        eps: Annotated[float, ">= 0"] = 1e-8,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        warmup_steps: Annotated[int, ">= 0"] = 0,
        r: Annotated[float, ">= 0"] = 0.0,
        weight_lr_power: Annotated[float, ">= 0"] = 2.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            **options,
        )

    def beta(self, group: dict[str, Any]) -> float:  # noqa: D102
        return float(group["betas"][0])

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"z": State("weight-like", None), "exp_avg_sq": State("non-negative")}

    def scalars(  # noqa: D102
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> dict[str, Any]:
        b2 = group["betas"][1]
        return super().scalars(group, t, carried) | {
            "b2": b2,
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "sqrt_debias2": host_sqrt(1 - b2**t),
        }

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        v = average_squares(s.exp_avg_sq, g, h.b2)
        d = g / (sqrt(v) / h.sqrt_debias2 + h.eps) + h.weight_decay * p
        u, new = self.averaged(d, p, s, h)
        return u, {"exp_avg_sq": v, **new}
