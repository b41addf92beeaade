"""Partial Gram tiles into the float64 masters, in fixed order and without atomics: deterministic.

Split operands were multiplied by powers of two, by which their products are divided here, exactly.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from linscore_kernels.launching import OPTIONS, on_device, pieces

BLOCK_ROWS, BLOCK_COLUMNS = 8, 128  # float64: 4 entries per thread at 8 warps


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
