"""LARS."""

from lit_optim.kernels.arithmetic import norm, where
from lit_optim.optimizers.base import Elementwise, State, Update, Value
from lit_optim.optimizers.base.types import Beta, Group, NonNegative, Positive, Scalars


class Lars(Elementwise):
    """Momentum for large batches: each gradient is scaled to the norm of its tensor.

    You, Gitman & Ginsburg 2017, Large Batch Training of Convolutional Networks, arXiv:1708.03888,
    Alg. 1.

        ratio = trust_coefficient |p| / (|g| + weight_decay |p|), and 1 if |p| or |g| is 0
        v = momentum v + lr ratio (g + weight_decay p)
        p = p - v

    State: `momentum_buffer` (v), of the parameter's shape, if momentum > 0.

    Differs: in most implementations lr is outside of v, so that a schedule also changes the past
    steps in it. For norms and biases a group may set trust_coefficient to null and weight_decay to
    0, as is usual in vision.

    Args:
        params: parameters, param groups, or a model: all its parameters in one group.
        lr: about 1 to 30; a tensor changes by lr trust_coefficient of its norm in an update, and
            with momentum by up to 1 / (1 - momentum) times that.
        momentum: the share of the last step that is kept.
        weight_decay: added to g as weight_decay p, like an L2 penalty, before g is scaled.
        trust_coefficient: the norm of a step with lr 1, relative to the tensor's; null: momentum
            without the ratio.
    """

    lr: NonNegative = 1.0
    momentum: Beta = 0.9
    weight_decay: NonNegative = 5e-4
    trust_coefficient: Positive | None = 1e-3

    lr_range = (1e-1, 1e2)
    requirements = ("dense", "whole")
    states = {"momentum_buffer": State(when="momentum")}

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        return 1.0, 1.0

    def scalars(self, group: Group, t: int) -> Scalars:
        adapts = group["trust_coefficient"] is not None
        return {"keeps_momentum": group["momentum"] > 0, "adapts": adapts}

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        lr = h.lr
        if h.adapts:
            of_p, of_g = norm(p), norm(g)
            ratio = h.trust_coefficient * of_p / (of_g + h.weight_decay * of_p)
            lr = lr * where(of_p * of_g > 0, ratio, 1.0)
        v = lr * (g + h.weight_decay * p)
        if not h.keeps_momentum:
            return v, {}
        v = h.momentum * s.momentum_buffer + v
        return v, {"momentum_buffer": v}
