"""The Newton-Schulz iteration, which makes matrices orthogonal by products of matrices alone.

Where the shape gains from it, several steps are made on the smaller Gram matrix, and the matrix
itself is multiplied once for all of them (Zhang, Amsel, Chen & Dao 2026, Gram Newton-Schulz).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal

import torch
from torch import Tensor

from lit_optim.kernels.arithmetic import clip
from lit_optim.optimizers.base.linalg import frobenius
from lit_optim.optimizers.base.symmetric import cost_of_symmetric, multiply_symmetric

Coefficients = Literal["original", "quintic", "polar_express", "precise"]
#: a, b and c of an odd polynomial a x + b x³ + c x⁵.
Polynomial = tuple[float, float, float]

#: Odd polynomials a x + b x³ + c x⁵ that move singular values towards 1, applied in turn.
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
#: How large, of the largest, eigenvalues that rounding has made may become in a segment.
TOLERATED = {torch.bfloat16: 2.0}
#: On a CPU, matrices whose shorter side is at least this are multiplied one by one.
APART = 256


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
    safety = SAFETY.get(coefficients, 1.0) if isinstance(coefficients, str) else 1.0
    y = x.reshape(-1, *x.shape[-2:])
    is_rounded = dtype == "bfloat16" and y.dtype == torch.float32
    y = _divide(y, clip(_norms(y) * safety, eps, inf), torch.bfloat16 if is_rounded else y.dtype)
    segments = divide_steps(coefficients, steps, y.shape[-2], y.shape[-1], y.dtype)
    together = y.device.type != "cpu" or min(y.shape[-2:]) < APART
    results = [_iterate(part, segments) for part in ([y] if together and len(y) > 1 else y)]
    found = results[0] if len(results) == 1 else torch.stack(results)
    return found.reshape(x.shape).to(x.dtype)


#: How many elements are divided and rounded at a time on a CPU: what stays in the cache of a core.
PIECE = 1 << 17


def _divide(x: Tensor, norms: Tensor, dtype: torch.dtype) -> Tensor:
    """Divide matrices [batch, m, n] by numbers [batch, 1, 1], and round them to another dtype."""
    if x.dtype == dtype or x.device.type != "cpu" or x.numel() <= PIECE:
        return (x / norms).to(dtype)
    found = x.new_empty(x.shape, dtype=dtype)
    rows = max(1, PIECE // x.shape[-1])
    for of_x, norm, to in zip(x, norms, found, strict=True):
        for place, part in zip(to.split(rows), of_x.split(rows), strict=True):
            place.copy_(part / norm)
    return found


#: Norms between these can be computed in float32, without squares that overflow or vanish.
SAFE_NORMS = 1e-15, 1e18


def _norms(x: Tensor) -> Tensor:
    """The Frobenius norms of matrices [..., m, n] as [..., 1, 1]."""
    if x.device.type == "cpu" and x.dtype == torch.float32:  # which copies x to sum in float64
        norms: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        if bool(((norms > SAFE_NORMS[0]) & (norms < SAFE_NORMS[1])).all()):
            return norms
    return frobenius(x)


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

    The rounding of a Gram matrix may make its smallest eigenvalues negative, and a step with the
    coefficient a multiplies these by a². A segment ends before they are as large as the others.

    Args:
        coefficients: as for `orthogonalize`.
        steps: as for `orthogonalize`.
        m: the number of rows.
        n: the number of columns.
        dtype: of the products.
    """
    restarts = RESTARTS.get(str(coefficients), ()) if dtype == torch.bfloat16 else ()
    segments: list[list[Polynomial]] = []
    growth, bound = 1.0, TOLERATED.get(dtype, 0.03) / torch.finfo(dtype).eps
    for k, polynomial in enumerate(list_polynomials(coefficients, steps)):
        if not segments or k in restarts or growth > bound:
            segments.append([])
            growth = 1.0
        segments[-1].append(polynomial)
        growth *= polynomial[0] ** 2
    short, long = sorted((m, n))
    alone, divided = _cost_of_segment(short, long, 1), []
    for segment in segments:
        pays = _cost_of_segment(short, long, len(segment)) < len(segment) * alone
        divided += [segment] if pays else [[polynomial] for polynomial in segment]
    return divided


def _cost_of_segment(short: int, long: int, steps: int) -> float:
    """The floating-point operations of some steps on one Gram matrix."""
    whole = 2.0 * short * short * long
    return (
        whole
        + cost_of_symmetric(short, long)
        + (4 * steps - 3 if steps > 1 else 1) * cost_of_symmetric(short, short)
    )


def orthogonalize_flops(
    m: int,
    n: int,
    coefficients: Coefficients | Polynomial,
    steps: int | None,
    dtype: torch.dtype = torch.bfloat16,
) -> float:
    """The floating-point operations of `orthogonalize` in this dtype for a matrix [m, n]."""
    segments = divide_steps(coefficients, steps, m, n, dtype)
    short, long = sorted((m, n))
    return sum(_cost_of_segment(short, long, len(segment)) for segment in segments)


def _iterate(y: Tensor, segments: Sequence[Sequence[Polynomial]]) -> Tensor:
    """All steps for a matrix [m, n], or for a batch of them."""
    tall = y.shape[-2] > y.shape[-1]
    product = torch.addmm if y.ndim == 2 else torch.baddbmm
    for segment in segments:
        gram = multiply_symmetric(y.mT, y) if tall else multiply_symmetric(y, y.mT)
        scale, factor = _combine(gram, segment)
        left, right = (y, factor) if tall else (factor, y)
        y = product(y, left, right, beta=scale) if scale else left @ right
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
