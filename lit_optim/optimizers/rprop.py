"""Resilient backpropagation."""

from lit_optim.kernels.arithmetic import clip, sign, where
from lit_optim.optimizers.base import Elementwise, Group, Scalars, State, Update, Value, require
from lit_optim.optimizers.base.types import NonNegative, TwoNonNegative, TwoPositive


class Rprop(Elementwise):
    """A step size per coordinate, which grows while its gradient keeps its sign; for full batches.

    Riedmiller & Braun 1993, A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm; without weight backtracking: Igel & Hüsken 2000, Improving the Rprop Learning
    Algorithm, iRprop-.

        d = d * etas[1] if g h > 0, d * etas[0] if g h < 0, else d;   d within step_sizes
        g = 0 if g h < 0
        p = p - sign(g) d;   h = g

    It is for full batches: with mini-batches the sign changes at random, and d shrinks.

    State: `prev` (h) and `step_size` (d), each of the parameter's shape.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: the initial step size d. It is read in the first update only, so a schedule has no
            effect.
        etas: factors on d after a change of sign, in (0, 1), and without one, > 1.
        step_sizes: the smallest and the largest d.

    Raises:
        ValueError: etas or step_sizes are out of order.
    """

    lr: NonNegative = 1e-2
    etas: TwoPositive = (0.5, 1.2)
    step_sizes: TwoNonNegative = (1e-6, 50.0)

    states = {"prev": State(), "step_size": State("non-negative", initial_from="lr")}

    def check_hyperparameters(self, group: Group) -> None:
        etas, sizes = list(group["etas"]), list(group["step_sizes"])
        is_around_1, is_ordered = etas[0] < 1 < etas[1], sizes[0] <= sizes[1]
        require(is_around_1, f"etas must be one below 1 and one above it, got {etas}")
        require(is_ordered, f"step_sizes must be the smallest and the largest, got {sizes}")

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1.0, 1.0

    def scalars(self, group: Group, t: int) -> Scalars:
        (shrink, grow), (smallest, largest) = group["etas"], group["step_sizes"]
        return {"shrink": shrink, "grow": grow, "smallest": smallest, "largest": largest}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        agree = g * s.prev
        d = where(agree < 0, h.shrink * s.step_size, s.step_size)
        d = clip(where(agree > 0, h.grow * s.step_size, d), h.smallest, h.largest)
        g = where(agree < 0, 0.0, g)
        return sign(g) * d, {"prev": g, "step_size": d}
