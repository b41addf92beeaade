"""One pass over the tokens: the operands of the Gram products, the norms of each row, the column sums.

x̂ = x − c_x and δ̂ = y − x − c_δ are formed in float32, per element, before anything is rounded. Operands are either
single, x̂ and δ̂ rounded to the 16 bits of x, or split, x̂·scale = hi + lo in two float16 parts (about 22 bits), likewise
δ̂. They are centred because tensor cores truncate as they sum: Σxxᵀ of a feature whose mean is large against its spread
would lose the spread. Heavy and non-finite rows are written as zeros. Each program takes a few rows and keeps its
column sums in registers: no atomics, fixed order.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import (
    COLUMN_ALIGN,
    OPTIONS,
    aligned,
    capability,
    next_power_of_2,
    on_device,
    pieces,
    rounds_by_hand,
)
from ..pilot import Pilot
from ..sums import FIGURES, TokenStats
from ..tiles import store_rounded

ROW_ALIGN = 128  # operand rows are padded with zeros to a multiple of every BLOCK_K, so that no loop masks tokens
TILE = 4096  # elements that a program holds at once: 16 per thread at 8 warps
WIDEST = 8192  # columns of one program, where registers allow; wider rows are shared, each program taking all the norms
ROWS = 16  # rows per program at least: its column sums are then a small part of what it writes

# A scaled operand beyond this comes near 65504, where float16 overflows; its row counts as heavy.
SPLIT_LARGEST = 32768.0


@triton.jit
def _load(x_rows, other_rows, x_step, other_step, column, width_delta, mask):
    wide = column.to(tl.int64)[None, :]
    x = tl.load(x_rows + wide * x_step, mask=mask, other=0.0).to(tl.float32)
    mask = mask & (column < width_delta)[None, :]
    other = tl.load(other_rows + wide * other_step, mask=mask, other=0.0).to(tl.float32)
    return x, other


@triton.jit
def _centre(x, delta, center_ptr, column, d, width_delta, mask):
    """x̂ and δ̂, zero outside the mask."""
    center_x = tl.load(center_ptr + column, mask=column < d, other=0.0)[None, :]
    center_delta = tl.load(center_ptr + d + column, mask=column < width_delta, other=0.0)[None, :]
    return tl.where(mask, x - center_x, 0.0), tl.where(mask, delta - center_delta, 0.0)


@triton.jit
def _scale(x_hat, delta_hat, scale_ptr, column, d, width_delta):
    scale_x = tl.load(scale_ptr + column, mask=column < d, other=0.0)[None, :]
    scale_delta = tl.load(scale_ptr + d + column, mask=column < width_delta, other=0.0)[None, :]
    return x_hat * scale_x, delta_hat * scale_delta


@triton.jit
def _ulp(value):
    """The power of two below |value|, which its exponent bits alone are; times eps it is the ulp."""
    return (value.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def _store_split(pointers, value, part, mask):
    hi = value.to(tl.float16)
    tl.store(pointers, hi, mask=mask)
    tl.store(pointers + part, (value - hi.to(tl.float32)).to(tl.float16), mask=mask)


@triton.jit
def _row_figures(
    x_rows, other_rows, x_step, other_step, center_ptr, scale_ptr, d, width_delta, inside,
    BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr, DELTA_GIVEN: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """‖x‖², ‖y‖², ‖δ‖², ‖x̂‖², ‖δ̂‖², Σ(power of two below)², the largest operand, and 1 where a value is not finite."""
    square_x = tl.zeros((BLOCK_ROWS,), tl.float32)
    square_y = tl.zeros((BLOCK_ROWS,), tl.float32)
    square_delta = tl.zeros((BLOCK_ROWS,), tl.float32)
    distance_x = tl.zeros((BLOCK_ROWS,), tl.float32)
    distance_delta = tl.zeros((BLOCK_ROWS,), tl.float32)
    rounding = tl.zeros((BLOCK_ROWS,), tl.float32)
    peak = tl.zeros((BLOCK_ROWS,), tl.float32)
    broken = tl.zeros((BLOCK_ROWS,), tl.int32)
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        mask = inside[:, None] & (column < d)[None, :]
        x, other = _load(x_rows, other_rows, x_step, other_step, column, width_delta, mask)
        y, delta = (x + other, other) if DELTA_GIVEN else (other, other - x)
        x_hat, delta_hat = _centre(x, delta, center_ptr, column, d, width_delta, mask)
        square_x += tl.sum(x * x, 1)
        square_y += tl.sum(y * y, 1)
        square_delta += tl.sum(delta * delta, 1)
        distance_x += tl.sum(x_hat * x_hat, 1)
        distance_delta += tl.sum(delta_hat * delta_hat, 1)
        power = _ulp(other)
        rounding += tl.sum(power * power, 1)
        # v − v is 0 unless v is infinite or NaN
        sound = (x - x == 0.0) & (other - other == 0.0)
        broken = tl.maximum(broken, tl.max(tl.where(sound, 0, 1), 1))
        if SPLIT:
            x_hat, delta_hat = _scale(x_hat, delta_hat, scale_ptr, column, d, width_delta)
        peak = tl.maximum(peak, tl.max(tl.maximum(tl.abs(x_hat), tl.abs(delta_hat)), 1))
    return square_x, square_y, square_delta, distance_x, distance_delta, rounding, peak, broken


@triton.jit
def _store_figures(figures_ptr, row, n, mask, square_x, square_y, square_delta, distance_delta, rounding):
    """In the order of FIGURES."""
    figures = figures_ptr + row
    tl.store(figures, tl.sqrt_rn(square_x), mask=mask)
    tl.store(figures + n, tl.sqrt_rn(square_y), mask=mask)
    tl.store(figures + 2 * n.to(tl.int64), tl.sqrt_rn(square_delta), mask=mask)
    tl.store(figures + 3 * n.to(tl.int64), distance_delta, mask=mask)
    tl.store(figures + 4 * n.to(tl.int64), rounding, mask=mask)


@triton.jit
def _store_operands(
    store, x_hat, delta_hat, scale_ptr, column, d, width_delta, part, keep, SPLIT: tl.constexpr, BY_HAND: tl.constexpr
):
    """Write x̂ and δ̂, `part` entries apart, or scaled and in two parts each."""
    if SPLIT:
        x_hat, delta_hat = _scale(x_hat, delta_hat, scale_ptr, column, d, width_delta)
        _store_split(store, x_hat, part, keep)
        _store_split(store + 2 * part, delta_hat, part, keep)
    else:
        store_rounded(store, x_hat, keep, BY_HAND)
        store_rounded(store + part, delta_hat, keep, BY_HAND)


@triton.jit(do_not_specialize=["n"])
def _token_stats_kernel(
    x_ptr, other_ptr, rows_ptr, center_ptr, scale_ptr, operands_ptr, figures_ptr, status_ptr, sums_ptr,
    n, padded, d, width_delta, width, x_stride, x_step, other_stride, other_step,
    limit_x, limit_delta, largest, ulp_factor,
    BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr, ITERATIONS: tl.constexpr,
    DELTA_GIVEN: tl.constexpr, SPLIT: tl.constexpr, BY_HAND: tl.constexpr,
):  # fmt: skip
    """X `[*, d]` and other, y or a given δ `[*, e]`, have any strides; rows `[n]` int64, or None, picks rows of both.

    center `[d + e]` float32 is c_x, c_δ, scale likewise; e is at most d, and d where y is given. operands `[parts,
    padded, width]`: x̂, δ̂ or x_hi, x_lo, δ_hi, δ_lo; an entry above `largest` overflows their dtype. figures `[5, n]`
    float32; status `[n]` uint8; sums `[programs, 2, width]` float32. ulp_factor: eps²/12 of the stored dtype.
    """
    part = padded.to(tl.int64) * width
    own = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sum_x = tl.zeros((BLOCK_ROWS, BLOCK), tl.float32)
    sum_delta = tl.zeros((BLOCK_ROWS, BLOCK), tl.float32)
    for iteration in range(ITERATIONS):
        row = (tl.program_id(0).to(tl.int64) * ITERATIONS + iteration) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = row < n
        position = row if rows_ptr is None else tl.load(rows_ptr + row, mask=inside, other=0)
        x_rows, other_rows = x_ptr + (position * x_stride)[:, None], other_ptr + (position * other_stride)[:, None]
        square_x, square_y, square_delta, distance_x, distance_delta, rounding, peak, broken = _row_figures(
            x_rows, other_rows, x_step, other_step, center_ptr, scale_ptr, d, width_delta, inside,
            BLOCK_ROWS, BLOCK, DELTA_GIVEN, SPLIT,
        )  # fmt: skip
        total = square_x + square_y + square_delta + distance_x + distance_delta
        near = (tl.sqrt_rn(distance_x) <= limit_x) & (tl.sqrt_rn(distance_delta) <= limit_delta)
        near = near & (peak <= largest) & (total < float("inf"))  # a NaN fails each of these
        first = row < tl.where(tl.program_id(1) == 0, n, 0)  # of the programs that share these rows, one writes
        tl.store(status_ptr + row, tl.where(broken == 0, tl.where(near, 0, 1), 2).to(tl.uint8), mask=first)
        _store_figures(
            figures_ptr, row, n, first, square_x, square_y, square_delta, distance_delta, rounding * ulp_factor
        )
        # Read once more, from cache: over the reductions the row would take the registers of the sums.
        mask = (inside & near & (broken == 0))[:, None] & (own < d)[None, :]
        x, other = _load(x_rows, other_rows, x_step, other_step, own, width_delta, mask)
        delta = other if DELTA_GIVEN else other - x
        x_hat, delta_hat = _centre(x, delta, center_ptr, own, d, width_delta, mask)
        sum_x += x_hat
        sum_delta += delta_hat
        store = operands_ptr + row[:, None] * width + own[None, :]
        keep = (row < padded)[:, None] & (own < width)[None, :]
        _store_operands(store, x_hat, delta_hat, scale_ptr, own, d, width_delta, part, keep, SPLIT, BY_HAND)

    sums = sums_ptr + tl.program_id(0).to(tl.int64) * 2 * width + own
    tl.store(sums, tl.sum(sum_x, 0), mask=own < width)
    tl.store(sums + width, tl.sum(sum_delta, 0), mask=own < width)


def tile_shape(d: int, split: bool, capability: int) -> tuple[dict[str, int], dict[str, int]]:
    """Compile-time shape of the tiles that read rows of `d` columns, and the options of the compiler.

    Within 128 registers two programs of 8 warps share a multiprocessor; split operands, and sm_100, would spill there.
    """
    compact = not split and capability < 100
    block = min(next_power_of_2(aligned(d, COLUMN_ALIGN)), WIDEST if compact else TILE)
    block_rows = max(1, min(TILE // block, 64))
    shape = {"BLOCK_ROWS": block_rows, "BLOCK": block, "ITERATIONS": max(1, ROWS // block_rows)}
    warps = max(1, min(block * block_rows // 512, 16))
    return shape, {"num_warps": warps, "maxnreg": 128 if compact else 255}


def operand_shape(n: int, d: int, dtype: torch.dtype, *, split: bool) -> tuple[tuple[int, int, int], torch.dtype]:
    """Shape and dtype of the operands of `n` rows of `dtype`."""
    parts, stored = (4, torch.float16) if split else (2, dtype)
    return (parts, aligned(n, ROW_ALIGN), aligned(d, COLUMN_ALIGN)), stored


def launch_token_stats(
    x: Tensor, other: Tensor, rows: Tensor | None, pilot: Pilot, *, delta_given: bool, split: bool
) -> TokenStats:
    """Read the rows of `x` `[*, d]` and of y or δ, `other` `[*, e]`, once; 32-bit `x` must be `split`.

    Sums of columns are those of each program, `[programs, 2, ≥ d]` float32.
    """
    n, d = (x if rows is None else rows).shape[0], x.shape[1]
    operands_shape, dtype = operand_shape(n, d, x.dtype, split=split)
    _, padded, width = operands_shape
    shape, options = tile_shape(d, split, capability(x))
    programs = pieces(padded, shape["BLOCK_ROWS"] * shape["ITERATIONS"])

    operands = x.new_empty(operands_shape, dtype=dtype)
    figures = x.new_empty(len(FIGURES), n, dtype=torch.float32)
    status = x.new_empty(n, dtype=torch.uint8)
    sums = x.new_empty(programs, 2, width, dtype=torch.float32)
    with on_device(x):
        _token_stats_kernel[programs, pieces(width, shape["BLOCK"])](
            x,
            other,
            rows,
            pilot.centers,
            pilot.scales,
            operands,
            figures,
            status,
            sums,
            n,
            padded,
            d,
            other.shape[1],
            width,
            *x.stride(),
            *other.stride(),
            pilot.limit_x,
            pilot.limit_delta,
            SPLIT_LARGEST if split else torch.finfo(dtype).max,
            torch.finfo(other.dtype).eps ** 2 / 12,
            DELTA_GIVEN=delta_given,
            SPLIT=split,
            BY_HAND=rounds_by_hand(dtype),
            **shape,
            **options,
            **OPTIONS,
        )
    return TokenStats(operands, figures, status, sums)
