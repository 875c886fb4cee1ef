"""The Newton-Schulz iteration, which makes matrices orthogonal by products of matrices alone.

Where the shape gains from it, several steps are made on the smaller Gram matrix, and the matrix
itself is multiplied once for all of them (Zhang, Amsel, Chen & Dao 2026, Gram Newton-Schulz).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp, inf, isfinite, nan, sqrt
from typing import Literal

import torch
from torch import Tensor

from lit_optim.kernels import graphs
from lit_optim.kernels.arithmetic import clip
from lit_optim.optimizers.base.pieces import copy_in_pieces, find_norms
from lit_optim.optimizers.base.symmetric import cost_of_symmetric, multiply_symmetric

Coefficients = Literal["original", "quintic", "polar_express", "precise"]
#: a, b and c of an odd polynomial a x + b x³ + c x⁵.
Polynomial = tuple[float, float, float]

#: Odd polynomials a x + b x³ + c x⁵ that move singular values toward 1, applied in turn.
POLYNOMIALS: dict[str, tuple[Polynomial, ...]] = {
    # Jordan et al. 2024: steep at 0, and then between 0.7 and 1.2
    "original": ((3.4445, -4.7750, 2.0315),) * 5,
    # You 2024, as published with Muon's derivation: a different one in each step
    "quintic": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    # Amsel et al. 2025, The Polar Express, arXiv:2505.16932: the best ones for values from 1e-3 on
    "polar_express": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
    "precise": ((2.0, -1.5, 0.5),) * 12,
}
#: The norm is enlarged by this: the first polynomial is steep just above 1.
SAFETY = {"polar_express": 1.02}
#: The steps before which bfloat16 begins another Gram matrix, beside those that `divide_steps`
#: finds: with these the result is as near to float64 as with one for each step.
RESTARTS = {"quintic": (4,), "polar_express": (1, 3)}
#: How large, of the largest, eigenvalues that rounding has made may become in a segment: of a
#: matrix with a shorter side of k, sqrt(k) times the first, and at most the second. Errors of
#: rounding are not alike, so their largest eigenvalue is about eps / sqrt(k).
TOLERATED = {torch.bfloat16: (0.05, 2.0)}
#: On a CPU, matrices whose shorter side is at least this are multiplied one by one.
ALONE = 256
#: Norms between these are divided by as part of the first product, which is by their square.
SAFE_NORMS = 1e-12, 1e15
#: The largest power of two that matrices with other norms are multiplied by.
MOST_EXPONENT = 120


def orthogonalize(
    x: Tensor,
    coefficients: Coefficients | Polynomial,
    steps: int | None,
    eps: float,
    dtype: str = "float32",
) -> Tensor:
    """Approximate U Vᵀ of x = U S Vᵀ: the same singular vectors, with singular values of about 1.

    The Newton-Schulz iteration: x / |x|, then x <- a x + (b A + c A²) x with A = x xᵀ.

    Args:
        x: matrices, [..., m, n].
        coefficients: of the iteration: a name of POLYNOMIALS, or a, b, c for all steps.
        steps: the number of iterations; None: as many as the name has, or 5.
        eps: the smallest norm that x is divided by.
        dtype: in which float32 is multiplied: float32 or bfloat16.

    Returns:
        a new tensor of the shape and dtype of x.
    """
    y, to = x.reshape(-1, *x.shape[-2:]), dtype_of_products(x.dtype, dtype)
    m, n = y.shape[-2:]
    if is_alone(m, n, y.device):
        results = []
        for one in y:
            copy, norm = copy_in_pieces(one.__getitem__, (m, n), to)
            results.append(orthogonalize_alone_(copy, norm, coefficients, steps, eps))
        found = results[0] if len(results) == 1 else torch.stack(results)
        return found.reshape(x.shape).to(x.dtype)
    norms = clip(find_norms(y) * _safety(coefficients), eps, inf)
    segments = divide_steps(coefficients, steps, m, n, to)

    def iterate(y: Tensor) -> Tensor:
        return _iterate(y if len(y) > 1 else y[0], segments)

    key = "orthogonalize", tuple(map(tuple, segments))
    graph = graphs.find(key, iterate, tuple(y.shape), to, y.device)
    y = y / torch.where(norms == 0, 1.0, norms)
    if graph:
        graph.given.copy_(y)
    found = graph.replay() if graph else iterate(y.to(to).contiguous())
    return found.reshape(x.shape).to(x.dtype, copy=graph is not None)


def is_alone(m: int, n: int, device: torch.device) -> bool:
    """Whether matrices [m, n] are iterated one by one, not in batches."""
    return device.type == "cpu" and min(m, n) >= ALONE


def orthogonalize_alone_(
    x: Tensor, norm: float, coefficients: Coefficients | Polynomial, steps: int | None, eps: float
) -> Tensor:
    """The same of one matrix that is rounded already, whose memory is used.

    It is divided by its norm as part of the first product.

    Args:
        x: [m, n], in the dtype of the products.
        norm: its Frobenius norm, before it was rounded.
        coefficients: as for `orthogonalize`.
        steps: as for `orthogonalize`.
        eps: as for `orthogonalize`.
    """
    norm = max(norm * _safety(coefficients), eps) if isfinite(norm) else nan
    if not SAFE_NORMS[0] < norm < SAFE_NORMS[1] and isfinite(norm) and norm:
        # its square would overflow or vanish; powers of two are exact
        factor = 2.0 ** -max(-MOST_EXPONENT, min(frexp(norm)[1], MOST_EXPONENT))
        x, norm = x.mul_(factor), norm * factor
    segments = divide_steps(coefficients, steps, len(x), x.shape[1], x.dtype)
    return _iterate(x, segments, 1 / norm if norm else 0.0)


def _safety(coefficients: Coefficients | Polynomial) -> float:
    return SAFETY.get(coefficients, 1.0) if isinstance(coefficients, str) else 1.0


def dtype_of_products(dtype: torch.dtype, chosen: str) -> torch.dtype:
    """In which matrices of this dtype are multiplied, if bfloat16 or float32 is chosen."""
    is_rounded = chosen == "bfloat16" and dtype == torch.float32
    return torch.bfloat16 if is_rounded else dtype


def list_polynomials(
    coefficients: Coefficients | Polynomial, steps: int | None
) -> list[Polynomial]:
    """The polynomial of each step; the last one of a name is repeated."""
    if isinstance(coefficients, str):
        known = POLYNOMIALS[coefficients]
    else:
        known = ((coefficients[0], coefficients[1], coefficients[2]),) * 5
    count = len(known) if steps is None else steps
    return [known[min(k, len(known) - 1)] for k in range(count)]


def divide_steps(
    coefficients: Coefficients | Polynomial,
    steps: int | None,
    m: int,
    n: int,
    dtype: torch.dtype,
) -> list[list[Polynomial]]:
    """The polynomials as segments: the steps of one segment are made on one Gram matrix.

    The rounding of a Gram matrix changes its smallest eigenvalues and may make them negative, and a
    step with the coefficient a multiplies these by a². A segment ends before they are as large as
    the others.

    Args:
        coefficients: as for `orthogonalize`.
        steps: as for `orthogonalize`.
        m: the number of rows.
        n: the number of columns.
        dtype: of the products.
    """
    restarts = RESTARTS.get(str(coefficients), ()) if dtype == torch.bfloat16 else ()
    segments: list[list[Polynomial]] = []
    short, long = sorted((m, n))
    of_root, most = TOLERATED.get(dtype, (inf, 0.03))
    growth, bound = 1.0, min(of_root * sqrt(short), most) / torch.finfo(dtype).eps
    for k, polynomial in enumerate(list_polynomials(coefficients, steps)):
        if not segments or k in restarts or growth > bound:
            segments.append([])
            growth = 1.0
        segments[-1].append(polynomial)
        growth *= polynomial[0] ** 2
    alone, divided = _cost_of_segment(short, long, 1), []
    for segment in segments:
        pays = _cost_of_segment(short, long, len(segment)) < len(segment) * alone
        divided += [segment] if pays else [[polynomial] for polynomial in segment]
    return divided


def _cost_of_segment(short: int, long: int, steps: int, is_whole: bool = False) -> float:
    """The floating-point operations of some steps on one Gram matrix."""
    return (
        2.0 * short * short * long
        + cost_of_symmetric(short, long, is_whole)
        + (4 * steps - 3 if steps > 1 else 1) * cost_of_symmetric(short, short, is_whole)
    )


def orthogonalize_flops(
    m: int,
    n: int,
    coefficients: Coefficients | Polynomial,
    steps: int | None,
    dtype: torch.dtype = torch.bfloat16,
    is_whole: bool = False,
) -> float:
    """The floating-point operations of `orthogonalize` in this dtype for a matrix [m, n].

    Args:
        m: the number of rows.
        n: the number of columns.
        coefficients: as for `orthogonalize`.
        steps: as for `orthogonalize`.
        dtype: of the products.
        is_whole: whether symmetric products are computed whole.
    """
    segments = divide_steps(coefficients, steps, m, n, dtype)
    short, long = sorted((m, n))
    return sum(_cost_of_segment(short, long, len(segment), is_whole) for segment in segments)


def _iterate(y: Tensor, segments: Sequence[Sequence[Polynomial]], factor: float = 1.0) -> Tensor:
    """All steps for a matrix [m, n], or for a batch of them.

    Args:
        y: the matrix, whose memory is used.
        segments: the steps.
        factor: what y is multiplied by at first.
    """
    tall = y.shape[-2] > y.shape[-1]
    product = torch.addmm if y.ndim == 2 else torch.baddbmm
    spare: Tensor | None = None
    for segment in segments:
        pair = (y.mT, y) if tall else (y, y.mT)
        scale, q = _combine(multiply_symmetric(*pair, factor * factor), segment)
        left, right = (y, q) if tall else (q, y)
        to = torch.empty_like(y) if spare is None else spare
        # what is added does not matter if it is multiplied by 0
        product(y if scale else to, left, right, beta=scale * factor, alpha=factor, out=to)
        spare, y, factor = y, to, 1.0
    return y


def _combine(gram: Tensor, segment: Sequence[Polynomial]) -> tuple[float, Tensor]:
    """The factor s + q by which a segment multiplies a matrix with this Gram matrix.

    Returns:
        s, a number, which is 0 but for a single step, and q, symmetric.
    """
    q: Tensor | None = None
    for k, (a, b, c) in enumerate(segment):
        p = multiply_symmetric(gram, gram, c, gram, b)
        if len(segment) == 1:
            return a, p
        if k < len(segment) - 1:  # a step multiplies by a + p, on both sides of the Gram matrix
            half = multiply_symmetric(gram, p, 1.0, gram, a)
            gram = multiply_symmetric(half, p, 1.0, half, a)
        if q is None:
            q = p
            q.diagonal(dim1=-2, dim2=-1).add_(a)
        else:
            q = multiply_symmetric(q, p, 1.0, q, a)
    assert q is not None
    return 0.0, q
