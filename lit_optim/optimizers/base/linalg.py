"""Linear algebra of the algorithms for matrices: pure functions of batches [..., m, n]."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_optim.kernels.precision import accumulation_dtype


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
