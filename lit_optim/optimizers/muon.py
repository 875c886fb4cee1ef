"""Muon."""

from math import sqrt
from typing import Literal

from lit_optim.optimizers.base import Coefficients, State, Update, Value
from lit_optim.optimizers.base.orthogonal import Orthogonal, ProductDtype
from lit_optim.optimizers.base.types import Beta, Iterations, NonNegative

#: How the step of an orthogonal matrix [m, n] is scaled for its shape.
AdjustLr = Literal["original", "match_rms_adamw", "spectral"]


class Muon(Orthogonal):
    """Orthogonalized momentum for hidden matrices, AdamW for the rest.

    Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks,
    kellerjordan.github.io/posts/muon; match_rms_adamw: Liu et al. 2025, Muon is Scalable for LLM
    Training, arXiv:2502.16982.

        b = momentum b + (1 - momentum) g
        u = momentum b + (1 - momentum) g if nesterov else b
        u = s NS(u / |u|);   NS, ns_steps times: A = u uᵀ;   u = c1 u + (c2 A + c3 A A) u
        p = p - lr (u + weight_decay p)

    where s of a matrix [m, n] is sqrt(max(1, m / n)) ("original"), 0.2 sqrt(max(m, n))
    ("match_rms_adamw") or sqrt(m / n) ("spectral"). A convolution is [out, in * height * width].
    AdamW updates the parameters whose role is not hidden.

    Differs: from torch's Muon, which always orthogonalizes in bfloat16: here float64 is kept, and
    so is float32 where its products are faster; from the authors' code for convolutions, whose s is
    1 there. Matrices that are not square are iterated in another order of the same products, on
    their Gram matrix, anew before its rounding has grown (Zhang et al. 2026, Gram Newton-Schulz).

    State: `momentum_buffer` (b), of the parameter's shape; AdamW's for other parameters.

    Args:
        params: the model; param groups with a `role`; or hidden matrices only.
        lr: of matrices: the step size in the spectral norm ("original", "spectral"), or about that
            of AdamW ("match_rms_adamw", which needs a lower lr, about 1e-3).
        momentum: decay rate of the average of gradients.
        nesterov: look ahead along the momentum.
        weight_decay: of matrices; decoupled: multiplied by lr.
        ns_coefficients: c1, c2 and c3 of the iteration, or the name of a published series:
            original, the steepest; quintic; polar_express; precise, for singular values of 1.
        ns_steps: the number of iterations; null: as many as the series has, or 5.
        eps: the smallest norm that a matrix is divided by.
        adjust_lr_fn: the factor s.
        ns_dtype: in which the iteration multiplies float32 matrices: float32, bfloat16, or auto,
            the faster of them as measured once on this machine; a run keeps what it began with.
    """

    lr: NonNegative = 0.02
    momentum: Beta = 0.95
    nesterov: bool = True
    weight_decay: NonNegative = 0.0
    ns_coefficients: Coefficients | tuple[float, float, float] = "original"
    ns_steps: Iterations | None = None
    eps: NonNegative = 1e-7
    adjust_lr_fn: AdjustLr = "original"
    ns_dtype: ProductDtype = "auto"

    lr_range = (3e-3, 1.0)
    states = {"momentum_buffer": State()}
    prepared = ("momentum_buffer",)
    adamw_share = 0.1

    def prepare(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        b = s.momentum_buffer.lerp_(g, 1 - h.momentum)
        return b.lerp(g, 1 - h.momentum) if h.nesterov else b, {"momentum_buffer": b}

    def scale(self, o: Value, s: Value, h: Value) -> tuple[float, dict[str, Value]]:
        return scale_for_shape(h.adjust_lr_fn, *o.shape[-2:]), {}


def scale_for_shape(adjust: AdjustLr, m: int, n: int) -> float:
    """The factor s of a matrix of m rows and n columns."""
    match adjust:
        case "original":
            return sqrt(max(1.0, m / n))
        case "match_rms_adamw":
            return 0.2 * sqrt(max(m, n))
        case _:
            return sqrt(m / n)
