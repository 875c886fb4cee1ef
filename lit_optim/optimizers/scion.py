"""Scion."""

from lit_optim.optimizers.base import Coefficients, State, Update, Value
from lit_optim.optimizers.base.orthogonal import Orthogonal, ProductDtype
from lit_optim.optimizers.base.types import Beta, Iterations, NonNegative, Positive
from lit_optim.optimizers.muon import scale_for_shape


class Scion(Orthogonal):
    """Conditional gradients for hidden matrices: each step goes to the edge of a spectral ball.

    Pethick et al. 2025, Training Deep Learning Models with Norm-Constrained LMOs,
    arXiv:2502.07529, Alg. 1 and 2, with the spectral norm for hidden matrices.

        d = momentum d + (1 - momentum) g
        u = rho sqrt(m / n) NS(d)                       NS as in Muon
        p = p - lr (u + weight_decay p)

    With weight_decay 1 this is the paper's constrained form, p = (1 - lr) p - lr u, whose matrices
    stay within rho sqrt(m / n) in the spectral norm; with 0 it is the unconstrained one.

    Differs: AdamW updates the parameters whose role is not hidden, for which the paper has balls in
    other norms; the paper's alpha is 1 - momentum; a convolution is the matrix
    [out, in * height * width], where the paper has the factor sqrt(out / in) / (height * width).

    State: `momentum_buffer` (d), of the parameter's shape; AdamW's for other parameters.

    Args:
        params: the model; param groups with a `role`; or hidden matrices only.
        lr: of matrices: the share of the way to the edge of the ball.
        momentum: decay rate of the average of gradients.
        rho: the radius of the ball, in units of sqrt(m / n).
        weight_decay: of matrices; decoupled: 1 keeps them in the ball, 0 does not.
        ns_coefficients: as in Muon.
        ns_steps: as in Muon.
        eps: the smallest norm that a matrix is divided by.
        ns_dtype: as in Muon.
    """

    lr: NonNegative = 5e-4
    momentum: Beta = 0.9
    rho: Positive = 50.0
    weight_decay: NonNegative = 1.0
    ns_coefficients: Coefficients | tuple[float, float, float] = "original"
    ns_steps: Iterations | None = None
    eps: NonNegative = 1e-7
    ns_dtype: ProductDtype = "auto"

    lr_range = (1e-5, 1e-2)
    states = {"momentum_buffer": State()}
    prepared = ("momentum_buffer",)
    adamw_share = 2.0

    def prepare(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        d = s.momentum_buffer.lerp_(g, 1 - h.momentum)
        return d, {"momentum_buffer": d}

    def scale(self, o: Value, s: Value, h: Value) -> tuple[float, dict[str, Value]]:
        return h.rho * scale_for_shape("spectral", *o.shape[-2:]), {}
