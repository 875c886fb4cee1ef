"""The Triton text of products of matrices that are known to be symmetric."""

from __future__ import annotations

SYMMETRIC = """\
import triton
import triton.language as tl


@triton.jit
def multiply_tiles(
    a,
    b,
    add,
    out,
    m,
    n,
    a_batch,
    a_row,
    a_column,
    b_batch,
    b_row,
    b_column,
    alpha,
    beta,
    HAS_ADDEND: tl.constexpr,
    IS_EVEN: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # one tile of alpha a b + beta add; add and out are contiguous; IS_EVEN: whole tiles only
    # tiles are counted row by row below the diagonal: row r begins at r (r + 1) / 2
    place = tl.program_id(0)
    row = ((tl.sqrt(8.0 * place.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > place, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= place, row + 1, row)
    column = place - row * (row + 1) // 2
    batch = tl.program_id(1).to(tl.int64)
    rows = row * TILE + tl.arange(0, TILE)
    columns = column * TILE + tl.arange(0, TILE)
    inner = tl.arange(0, DEPTH)
    left = a + batch * a_batch + rows.to(tl.int64)[:, None] * a_row
    right = b + batch * b_batch + columns.to(tl.int64)[None, :] * b_column
    left += inner.to(tl.int64)[None, :] * a_column
    right += inner.to(tl.int64)[:, None] * b_row
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for start in range(0, n, DEPTH):
        if IS_EVEN:
            x = tl.load(left)
            y = tl.load(right)
        else:
            within = start + inner < n
            x = tl.load(left, mask=(rows[:, None] < m) & within[None, :], other=0.0)
            y = tl.load(right, mask=within[:, None] & (columns[None, :] < m), other=0.0)
        total = tl.dot(x, y, total)
        left += DEPTH * a_column
        right += DEPTH * b_row
    size = tl.cast(m, tl.int64)
    inside = (rows[:, None] < m) & (columns[None, :] < m)
    here = batch * size * size + rows[:, None] * size + columns[None, :]
    total = total * alpha
    if HAS_ADDEND:
        total += beta * tl.load(add + here, mask=inside, other=0.0).to(tl.float32)
    found = total.to(out.dtype.element_ty)
    tl.store(out + here, found, mask=inside)
    if row != column:
        there = batch * size * size + columns[None, :] * size + rows[:, None]
        tl.store(out + there, found, mask=inside)
"""
