"""Schedule-free stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from typing_extensions import Unpack

from lit_optim.optimizers.base.elementwise import State
from lit_optim.optimizers.base.options import Options
from lit_optim.optimizers.base.schedule_free import ScheduleFree
from lit_optim.requirements import Need


class ScheduleFreeSGD(ScheduleFree):
    """Gradient descent at a constant lr whose result is an average of its way, good at any time.

    Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682, Sec. 2.

        size = lr min(1, t / warmup_steps)
        z = z - size (g + weight_decay y)
        c = w / (sum of w so far), with w = t^r (largest size so far)^weight_lr_power
        x = (1 - c) x + c z;   y = (1 - momentum) z + momentum x

    While training the parameters are y, where g is taken; `eval()` makes them x, `train()` makes
    them y again, and a step in between is refused. In 16 bits each change rounds once more.

    State: `z`, of the parameter's shape, and the numbers `weight_sum` and `lr_max`; x is made from
    y and z. Group: `train_mode`.

    Differs: as the authors' package, not the paper, the largest size weighs, not the last; unlike
    there, a parameter that wakes up late counts its own updates.

    Args:
        params: parameters, or param groups.
        lr: step of z per unit of gradient; 10 to 50 times that of SGD with momentum.
        momentum: how near y is to x, the same from the first update to the last.
        weight_decay: coupled: an L2 penalty's gradient, at y.
        warmup_steps: updates in which the size grows to lr.
        r: above 0, later updates weigh more in x.
        weight_lr_power: how much less updates of a small size weigh in x.
    """

    coupled_weight_decay = True
    needs: ClassVar[tuple[Need, ...]] = ("dense", "train_eval", "steady_lr")
    lr_range: ClassVar[tuple[float, float]] = (3e-2, 3e1)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1.0,
        momentum: Annotated[float, "in (0, 1)"] = 0.9,
        weight_decay: Annotated[float, ">= 0"] = 0.0,
        warmup_steps: Annotated[int, ">= 0"] = 0,
        r: Annotated[float, ">= 0"] = 0.0,
        weight_lr_power: Annotated[float, ">= 0"] = 2.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            **options,
        )

    def beta(self, group: dict[str, Any]) -> float:  # noqa: D102
        return float(group["momentum"])

    def states(self, group: dict[str, Any]) -> dict[str, State]:  # noqa: D102
        return {"z": State("weight-like", None)}

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:  # noqa: D102
        return self.averaged(g, p, s, h)
