"""The first heavy rows of a batch as float64 operands and figures, in one launch that waits for no one to count them.

Program k looks for the k-th heavy row. Where there are fewer, its operands are zeros and its status is not LIGHT.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import OPTIONS, next_power_of_2, on_device
from ..pilot import Pilot
from ..sums import FIGURES

SCAN = 1024  # statuses read at once
WIDEST = 1024  # columns: float64 takes two registers each


@triton.jit
def _kth_heavy(status_ptr, k, n, SCAN: tl.constexpr):
    """The position of the k-th heavy row, counted from 0; n where there are not so many."""
    found, before = n, 0
    for start in range(0, n, SCAN):
        row = start + tl.arange(0, SCAN)
        heavy = (tl.load(status_ptr + row, mask=row < n, other=0) == 1).to(tl.int32)
        rank = before + tl.cumsum(heavy, 0) - 1
        found = tl.minimum(found, tl.min(tl.where((heavy == 1) & (rank == k), row, n), 0))
        before += tl.sum(heavy, 0)
    return found


@triton.jit
def _load(pointer, column, step, width):
    """In float32, which holds all that is stored."""
    return tl.load(pointer + column.to(tl.int64) * step, mask=column < width, other=0.0).to(tl.float32)


@triton.jit
def _store_figures(figures_ptr, k, rows, x, y, delta, delta_hat, rounding):
    """In the order of FIGURES."""
    tl.store(figures_ptr + k, tl.sqrt(tl.sum(x, 0)))
    tl.store(figures_ptr + rows + k, tl.sqrt(tl.sum(y, 0)))
    tl.store(figures_ptr + 2 * rows + k, tl.sqrt(tl.sum(delta, 0)))
    tl.store(figures_ptr + 3 * rows + k, tl.sum(delta_hat, 0))
    tl.store(figures_ptr + 4 * rows + k, tl.sum(rounding, 0))


@triton.jit(do_not_specialize=["n", "rows"])
def _heavy_rows_kernel(
    x_ptr, other_ptr, rows_ptr, status_ptr, center_ptr, operands_ptr, figures_ptr, found_ptr,
    n, rows, d, width_delta, x_stride, x_step, other_stride, other_step, ulp_factor,
    SCAN: tl.constexpr, BLOCK: tl.constexpr, DELTA_GIVEN: tl.constexpr,
):  # fmt: skip
    """As those of token_stats: x `[*, d]`, other y or δ `[*, e]`, rows `[n]` or None, status `[n]`, center `[d + e]`.

    operands `[2, rows, d]` and figures `[5, rows]` are float64; found `[rows]` uint8 is the status of each.
    """
    k = tl.program_id(0)
    position = _kth_heavy(status_ptr, k, n, SCAN).to(tl.int64)
    found = position < n
    if rows_ptr is not None:
        position = tl.load(rows_ptr + position, mask=found, other=0)
    # Columns that are read: none where there is no such row. Triton 3.9's interpreter takes no `found & (column < d)`.
    read_x, read_delta = tl.where(found, d, 0), tl.where(found, width_delta, 0)
    zero = tl.zeros((BLOCK,), tl.float64)
    square_x, square_y, square_delta, distance, rounding = zero, zero, zero, zero, zero
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        stored = _load(other_ptr + position * other_stride, column, other_step, read_delta)
        power = (stored.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True).to(tl.float64)
        x = _load(x_ptr + position * x_stride, column, x_step, read_x).to(tl.float64)
        other = stored.to(tl.float64)
        y, delta = (x + other, other) if DELTA_GIVEN else (other, other - x)
        center_x = tl.load(center_ptr + column, mask=column < read_x, other=0.0).to(tl.float64)
        center_delta = tl.load(center_ptr + d + column, mask=column < read_delta, other=0.0)
        delta_hat = delta - center_delta.to(tl.float64)
        operand = operands_ptr + k.to(tl.int64) * d + column
        tl.store(operand, x - center_x, mask=column < d)
        tl.store(operand + rows.to(tl.int64) * d, delta_hat, mask=column < d)
        square_x += x * x
        square_y += y * y
        square_delta += delta * delta
        distance += delta_hat * delta_hat
        rounding += power * power * ulp_factor
    _store_figures(figures_ptr, k, rows, square_x, square_y, square_delta, distance, rounding)
    tl.store(found_ptr + k, tl.where(found, 0, 3).to(tl.uint8))


def launch_heavy_rows(
    x: Tensor, other: Tensor, rows: Tensor | None, status: Tensor, pilot: Pilot, held: int, *, delta_given: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Operands `[2, held, d]` and figures `[5, held]`, float64, of the first `held` rows whose `status` is HEAVY.

    The other arguments are those of launch_token_stats. The third of what is returned, `[held]` uint8, is LIGHT for
    rows that were found.
    """
    d = x.shape[1]
    operands = x.new_empty(2, held, d, dtype=torch.float64)
    figures = x.new_empty(len(FIGURES), held, dtype=torch.float64)
    found = x.new_empty(held, dtype=torch.uint8)
    with on_device(x):
        _heavy_rows_kernel[held,](
            x,
            other,
            rows,
            status,
            pilot.centers,
            operands,
            figures,
            found,
            status.shape[0],
            held,
            d,
            other.shape[1],
            *x.stride(),
            *other.stride(),
            torch.finfo(other.dtype).eps ** 2 / 12,
            SCAN=SCAN,
            BLOCK=min(next_power_of_2(d), WIDEST),
            DELTA_GIVEN=delta_given,
            num_warps=4,
            **OPTIONS,
        )
    return operands, figures, found
