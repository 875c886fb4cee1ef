"""Linear algebra of the algorithms for matrices: pure functions of batches [..., m, n]."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_optim.kernels.precision import accumulation_dtype
from lit_optim.optimizers.base.products import multiply_by_onednn, prefers_onednn

#: The least side of a product for which calling oneDNN pays.
LEAST = 128


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The products of matrices [batch, m, k] and [batch, k, n]."""
    if not _suits_onednn(a, b):
        return a @ b
    products = [multiply_by_onednn(x, y) for x, y in zip(a, b, strict=True)]
    return products[0].unsqueeze(0) if len(products) == 1 else torch.stack(products)


def _suits_onednn(a: Tensor, b: Tensor) -> bool:
    sides = *a.shape[-2:], b.shape[-1]
    is_on_cpu = a.device.type == "cpu" and a.dtype == torch.float32
    return is_on_cpu and min(sides) >= LEAST and prefers_onednn()


def frobenius(x: Tensor) -> Tensor:
    """The Frobenius norms of matrices [..., m, n] as [..., 1, 1], accumulated in float64."""
    norms: Tensor = torch.linalg.vector_norm(
        x, dim=(-2, -1), keepdim=True, dtype=accumulation_dtype(x.device)
    )
    return norms.to(x.dtype)


#: How many rows of a factor are computed at a time.
STRIP = 256


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
        strip, rows, columns = factor[:, start:end, :end], x[:, start:end], x[:, :end].mT
        if _suits_onednn(rows, columns):
            strip.lerp_(multiply(rows, columns), weight)
        else:
            strip.baddbmm_(rows, columns, beta=1 - weight, alpha=weight)
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


def compute_eigenbases(x: Tensor, has_left: bool, has_right: bool) -> dict[str, Tensor]:
    """The eigenvectors of x xᵀ and xᵀ x as columns, largest eigenvalue first.

    Only the product of the shorter side is decomposed, x xᵀ = q diag(a) qᵀ, say. The columns of
    xᵀ q are then orthogonal, so that QR is enough: it divides them by their norms, and completes
    those of norm 0 to a basis.

    Args:
        x: matrices, [batch, m, n].
        has_left: whether to return the vectors of x xᵀ, [batch, m, m], as `left`.
        has_right: whether to return those of xᵀ x, [batch, n, n], as `right`.

    Returns:
        NaN for a matrix whose decomposition fails.
    """
    is_wide = x.shape[-2] <= x.shape[-1]
    short, long = ("left", "right") if is_wide else ("right", "left")
    x = x if is_wide else x.mT
    largest = x.abs().amax((-2, -1), keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    bases = {short: eigen(multiply(x, x.mT))[1].flip(-1)}
    if has_right if is_wide else has_left:
        bases[long] = torch.linalg.qr(multiply(x.mT, bases[short]), mode="complete")[0]
    return {side: bases[side] for side in bases if (has_left if side == "left" else has_right)}


def refresh_eigenbasis(a: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move a basis toward the eigenvectors of symmetric matrices: one power iteration and QR.

    Args:
        a: symmetric matrices, [batch, m, m].
        basis: of the same shape, its columns near the eigenvectors.

    Returns:
        the new basis, largest eigenvalue first and NaN where a is not finite; the places of its
        columns in the old basis, [batch, m]; and an estimate of the eigenvalues, [batch, m].
    """
    product = multiply(a, basis)
    order = (basis * product).sum(-2).argsort(-1, descending=True)
    # torch.linalg.qr computes the same, and copies more
    packed, tau = torch.geqrf(product.gather(-1, order.unsqueeze(-2).expand_as(product)))
    values = packed.diagonal(dim1=-2, dim2=-1).abs()
    return torch.linalg.householder_product(packed, tau), order, values


def follow_eigenvectors(a: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors, as columns, and eigenvalues of symmetric matrices, from those of earlier ones.

    Args:
        a: symmetric matrices, [batch, m, m].
        basis: of the same shape: the vectors of last time, from which `refresh_eigenbasis` goes on;
            0 for a matrix that has none, which is decomposed.

    Returns:
        vectors and values, NaN where it fails.
    """
    is_known = basis.flatten(1).any(1)
    if is_known.all():
        vectors, _, values = refresh_eigenbasis(a, basis)
        return vectors, values
    values, vectors = eigen(a)
    if is_known.any():
        places = is_known.nonzero().squeeze(-1)
        vectors[places], _, values[places] = refresh_eigenbasis(a[places], basis[places])
    return vectors, values


def power(vectors: Tensor, values: Tensor, exponent: float, eps: float) -> Tensor:
    """(a + eps)^exponent of symmetric matrices by their eigenvectors and eigenvalues >= 0.

    Args:
        vectors: as columns, [batch, m, m].
        values: [batch, m].
        exponent: of the power.
        eps: added to the eigenvalues.
    """
    scaled = (values.clamp(min=0) + eps) ** exponent
    return multiply(vectors * scaled.unsqueeze(-2), vectors.mT)
