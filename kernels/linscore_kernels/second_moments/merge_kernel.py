"""Gram tiles into the float64 masters, in fixed order and without atomics: deterministic.

Partial ones in a launch of their own, whole ones by the program that has them.
Split operands were multiplied by powers of two, by which their products are divided here, exactly.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..launching import OPTIONS, on_device, pieces
from ..tiles import halves

BLOCK_ROWS, BLOCK_COLUMNS = 8, 128  # float64: 4 entries per thread at 8 warps


@triton.jit
def _add_tile(
    tile, out, scale_ptr, row, column, columns_left, d, out_stride, sign, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Add a tile to the float64 sums, on and right of the diagonal, divided by the scales of its rows and columns."""
    m, k = row + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    mask = (m < d)[:, None] & (k < columns_left)[None, :] & (m[:, None] <= (column + k)[None, :])
    total = tile.to(tl.float64) * sign
    if scale_ptr is not None:  # powers of two, whose reciprocals are exact
        unit_row = 1.0 / tl.load(scale_ptr + m, mask=m < d, other=1.0)
        unit_column = 1.0 / tl.load(scale_ptr + column + k, mask=k < columns_left, other=1.0)
        total = total * unit_row.to(tl.float64)[:, None] * unit_column.to(tl.float64)[None, :]
    pointers = out + row.to(tl.int64) * out_stride + column + (m - row)[:, None] * out_stride + k[None, :]
    total += tl.load(pointers, mask=mask, other=0.0).to(tl.float64)
    tl.store(pointers, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def add_sums(
    sums, out, scale_ptr, row, column, columns_left, d, out_stride, sign,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """In pieces of at most PIECE columns, one after the other: float64 takes two registers an entry."""
    if BLOCK_N > PIECE:
        HALF: tl.constexpr = BLOCK_N // 2
        low, high = halves(sums, BLOCK_M, BLOCK_N)
        add_sums(low, out, scale_ptr, row, column, columns_left, d, out_stride, sign, BLOCK_M, HALF, PIECE)
        add_sums(
            high, out, scale_ptr, row, column + HALF, columns_left - HALF, d, out_stride, sign, BLOCK_M, HALF, PIECE
        )
    else:
        _add_tile(sums, out, scale_ptr, row, column, columns_left, d, out_stride, sign, BLOCK_M, BLOCK_N)


@triton.jit(do_not_specialize=["splits", "sign"])
def _merge_tiles_kernel(
    partial_ptr,  # [splits, d, columns] float32
    out_ptr,  # [d, columns] float32 or float64, rows `out_stride` apart
    scale_ptr,  # [columns] float32 powers of two, or None
    d,
    columns,  # those of x and of δ
    splits,
    split_stride,
    out_stride,
    sign,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    if (tl.program_id(1) + 1) * BLOCK_COLUMNS <= tl.program_id(0) * BLOCK_ROWS:
        return  # below the diagonal of the left half
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    mask = (row < d)[:, None] & (column < columns)[None, :] & (row[:, None] <= column[None, :])
    partial = partial_ptr + row.to(tl.int64)[:, None] * columns + column[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float64)
    for _ in range(splits):
        total += tl.load(partial, mask=mask, other=0.0).to(tl.float64)
        partial += split_stride
    if scale_ptr is not None:
        scale_row = tl.load(scale_ptr + row, mask=row < d, other=1.0).to(tl.float64)[:, None]
        total /= scale_row * tl.load(scale_ptr + column, mask=column < columns, other=1.0).to(tl.float64)[None, :]
    out = out_ptr + row.to(tl.int64)[:, None] * out_stride + column[None, :]
    merged = tl.load(out, mask=mask, other=0.0).to(tl.float64) + total * sign
    tl.store(out, merged.to(out_ptr.dtype.element_ty), mask=mask)


def launch_merge(partial: Tensor, out: Tensor, *, scale: Tensor | None = None, sign: int = 1) -> None:
    """Add `sign` times the sum of `partial` `[splits, d, d + e]` to `out` `[d, d + e]`, on and right of the diagonal.

    `scale` `[d + e]` holds the powers of two that the operands were multiplied by.
    """
    splits, d, columns = partial.shape
    with on_device(out):
        _merge_tiles_kernel[pieces(d, BLOCK_ROWS), pieces(columns, BLOCK_COLUMNS)](
            partial,
            out,
            scale,
            d,
            columns,
            splits,
            partial.stride(0),
            out.stride(0),
            sign,
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_COLUMNS=BLOCK_COLUMNS,
            num_warps=8,
            **OPTIONS,
        )
