"""Linear algebra of the algorithms for matrices: pure functions of batches [..., m, n]."""

from __future__ import annotations

from math import inf
from typing import Literal

import torch
from torch import Tensor

from lit_optim.kernels.arithmetic import clip
from lit_optim.kernels.precision import accumulation_dtype
from lit_optim.optimizers.base.products import prefers_bfloat16

Coefficients = Literal["original", "quintic", "polar_express", "precise"]

#: Odd polynomials a x + b x³ + c x⁵ that move singular values towards 1, applied in turn.
POLYNOMIALS: dict[str, tuple[tuple[float, float, float], ...]] = {
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


def orthogonalize(
    x: Tensor,
    coefficients: Coefficients | tuple[float, float, float],
    steps: int | None,
    eps: float,
) -> Tensor:
    """Approximate U Vᵀ of x = U S Vᵀ: the same singular vectors, with singular values of about 1.

    The Newton-Schulz iteration: x / |x|, then x <- a x + (b A + c A²) x with A = x xᵀ. float32 is
    computed in bfloat16 where its products are faster, as measured by `optimizers.base.products`.

    Args:
        x: matrices, [..., m, n].
        coefficients: of the iteration: a name of POLYNOMIALS, or a, b, c for all steps.
        steps: the number of iterations; None: as many as the name has, or 5.
        eps: the smallest norm that x is divided by.
    """
    if isinstance(coefficients, str):
        known, safety = POLYNOMIALS[coefficients], SAFETY.get(coefficients, 1.0)
    else:
        known, safety = ((coefficients[0], coefficients[1], coefficients[2]),) * 5, 1.0
    tall = x.shape[-2] > x.shape[-1]
    y = x.reshape(-1, *x.shape[-2:])
    alone = len(y) == 1  # then a CPU needs no copies of what is transposed
    y, product = (y[0], torch.addmm) if alone else (y, torch.baddbmm)
    y = y.mT if tall else y  # A is then the smaller of two
    y = y / clip(frobenius(y) * safety, eps, inf)
    y = y.bfloat16() if y.dtype == torch.float32 and prefers_bfloat16(y.device.type) else y
    for k in range(len(known) if steps is None else steps):
        a, b, c = known[min(k, len(known) - 1)]
        gram = y @ y.mT
        powers = product(gram, gram, gram, beta=b, alpha=c)
        y = product(y, powers, y, beta=a)
    return (y.mT if tall else y).reshape(x.shape).to(x.dtype)


def orthogonalize_flops(
    m: int,
    n: int,
    coefficients: Coefficients | tuple[float, float, float],
    steps: int | None,
) -> float:
    """The floating-point operations of `orthogonalize` for a matrix [m, n]."""
    if steps is None:
        steps = len(POLYNOMIALS[coefficients]) if isinstance(coefficients, str) else 5
    short, long = sorted((m, n))
    return steps * (4.0 * short * short * long + 2.0 * short**3)


def frobenius(x: Tensor) -> Tensor:
    """The Frobenius norms of matrices [..., m, n] as [..., 1, 1], accumulated in float64."""
    norms: Tensor = torch.linalg.vector_norm(
        x, dim=(-2, -1), keepdim=True, dtype=accumulation_dtype(x.device)
    )
    return norms.to(x.dtype)


#: How many rows of a factor are computed at a time.
STRIP = 512


def update_factor_(factor: Tensor, x: Tensor, weight: float) -> Tensor:
    """Average x xᵀ into a factor in place, on and below its diagonal only.

        factor <- (1 - weight) factor + weight x xᵀ

    Args:
        factor: symmetric, [batch, m, m]; read it through `fill_symmetric_`.
        x: matrices, [batch, m, n].
        weight: the weight of the new product.
    """
    for start in range(0, x.shape[-2], STRIP):
        end = start + STRIP
        strip = factor[:, start:end, :end]
        strip.baddbmm_(x[:, start:end], x[:, :end].mT, beta=1 - weight, alpha=weight)
    return factor


def fill_symmetric_(factor: Tensor) -> Tensor:
    """Fill the part of a factor of `update_factor_` above its diagonal, in place."""
    for start in range(STRIP, factor.shape[-1], STRIP):
        end = start + STRIP
        factor[:, :start, start:end] = factor[:, start:end, :start].mT
    return factor


def eigen(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, smallest first, and eigenvectors, as columns, of symmetric matrices [b, m, m].

    Returns:
        NaN for a matrix whose decomposition fails in float64 too.
    """
    try:
        return torch.linalg.eigh(a)  # type: ignore[no-any-return]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # one that does not converge, or is not finite
        pairs = [_eigen(matrix) for matrix in a]
        return torch.stack([values for values, _ in pairs]), torch.stack([q for _, q in pairs])


def _eigen(a: Tensor) -> tuple[Tensor, Tensor]:
    for dtype in (a.dtype, accumulation_dtype(a.device)):
        try:
            values, vectors = torch.linalg.eigh(a.to(dtype))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            continue
        return values.to(a.dtype), vectors.to(a.dtype)
    return torch.full_like(a[0], torch.nan), torch.full_like(a, torch.nan)


def compute_eigenbasis(a: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvectors of symmetric matrices, as `refresh_eigenbasis` returns them."""
    vectors = eigen(a)[1].flip(-1)
    return vectors, torch.arange(a.shape[-1], device=a.device).expand(a.shape[:-1])


def refresh_eigenbasis(a: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Move a basis towards the eigenvectors of symmetric matrices: one power iteration and QR.

    Args:
        a: symmetric matrices, [batch, m, m].
        basis: of the same shape, its columns near the eigenvectors.

    Returns:
        the new basis, largest eigenvalue first and NaN where a is not finite, and the places of its
        columns in the old basis, [batch, m].
    """
    product = a @ basis
    order = (basis * product).sum(-2).argsort(-1, descending=True)
    return torch.linalg.qr(product.gather(-1, order.unsqueeze(-2).expand_as(product)))[0], order


def inverse_root(a: Tensor, root: float, eps: float) -> Tensor:
    """(a + eps)^(-1/root) of symmetric positive matrices [batch, m, m], NaN where it fails."""
    values, vectors = eigen(a)
    scaled = (values.clamp(min=0) + eps) ** (-1 / root)
    return (vectors * scaled.unsqueeze(-2)) @ vectors.mT
