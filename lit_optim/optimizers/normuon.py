"""NorMuon."""

from lit_optim.kernels.arithmetic import lerp
from lit_optim.optimizers.base import Coefficients, State, Update, Value
from lit_optim.optimizers.base.orthogonal import Orthogonal, ProductDtype
from lit_optim.optimizers.base.pieces import find_squares
from lit_optim.optimizers.base.types import Beta, Iterations, NonNegative
from lit_optim.optimizers.muon import AdjustLr, scale_for_shape

#: Added to denominators; the authors' constant.
TINY = 1e-10


class NorMuon(Orthogonal):
    """Muon with normalized rows, so that all neurons move alike.

    Li et al. 2025, NorMuon: Making Muon more efficient and scalable, arXiv:2510.05491; as in the
    authors' code, which keeps the norm of the step.

        b = momentum b + (1 - momentum) g
        o = NS(momentum b + (1 - momentum) g)          as in Muon, or NS(b) without nesterov
        v = beta2 v + (1 - beta2) mean of o² over each row
        u = o / (sqrt(v) + 1e-10);   u = s u |o| / (|u| + 1e-10)
        p = p - lr (u + weight_decay p)

    where s of a matrix [m, n] is Muon's. AdamW updates the parameters whose role is
    not hidden.

    Differs: from the authors' code for convolutions, where rows are those of each kernel; here a
    convolution is the matrix [out, in * height * width].

    State: `momentum_buffer` (b), of the parameter's shape, and `row_var` (v), [matrices, m, 1];
    AdamW's for other parameters.

    Args:
        params: the model; param groups with a `role`; or hidden matrices only.
        lr: of matrices: the step size in the spectral norm.
        momentum: decay rate of the average of gradients.
        beta2: decay rate of the average of the squared size of rows.
        nesterov: look ahead along the momentum.
        weight_decay: of matrices; decoupled: multiplied by lr.
        ns_coefficients: as in Muon.
        ns_steps: as in Muon.
        eps: the smallest norm that a matrix is divided by.
        adjust_lr_fn: the factor s.
        ns_dtype: as in Muon.
    """

    lr: NonNegative = 0.02
    momentum: Beta = 0.95
    beta2: Beta = 0.95
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
    row_states = ("row_var",)
    adamw_share = 0.1

    def prepare(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        b = s.momentum_buffer.lerp_(g, 1 - h.momentum)
        return b.lerp(g, 1 - h.momentum) if h.nesterov else b, {"momentum_buffer": b}

    def scale(self, o: Value, s: Value, h: Value) -> tuple[Value, dict[str, Value]]:
        squares = find_squares(o)
        v = lerp(s.row_var, squares, 1 - h.beta2)
        scale = 1 / (v.sqrt() + TINY)
        # |o|, and |u| for u = scale o, from the squares of their rows
        rows = o.shape[-1] * squares, o.shape[-1] * squares * scale * scale
        of_o, of_u = (x.sum(-2, keepdim=True).sqrt() for x in rows)
        scale *= scale_for_shape(h.adjust_lr_fn, *o.shape[-2:]) * of_o / (of_u + TINY)
        return scale, {"row_var": v}
