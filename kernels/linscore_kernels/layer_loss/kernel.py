"""Distances of one pair of states in one pass, and the gradient in one state: the formulas of `layer_loss`, fused.

A program takes a few rows with all their columns, so that every reduction ends in it: no atomics, fixed order.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..launching import OPTIONS, next_power_of_2, on_device, pieces, rounds_by_hand, whole_rows
from ..tiles import store_rounded

WIDEST = 4096  # columns that a program holds at once, of one row
TILE = 2048  # elements of several rows: rows that are not aligned would spill with more
Neighbour = tuple[Tensor | None, Tensor | None]  # a state and the floats of the pair, or nothing


@triton.jit
def _inverse(norm_x, norm_y, SHORTEST: tl.constexpr):
    both = (norm_x > SHORTEST) & (norm_y > SHORTEST)
    return tl.where(both, 1.0 / tl.where(both, norm_x * norm_y, 1.0), 0.0)


@triton.jit
def _load(ptr, start_row, within, stride, column, mask):
    """Entries of rows `start_row` + `within` as float32; offsets in a tile are 32 bit, to keep them in registers."""
    offset = (within * stride)[:, None] + column[None, :]
    return tl.load(ptr + start_row * stride + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["n"])
def _distances_kernel(
    x_ptr,  # [n, d] h_{i−1}, rows `x_stride` apart
    y_ptr,  # [n, d] h_i
    weight_ptr,  # [n] float32; rows of weight 0 are not read
    figures_ptr,  # [3, n] float32: ‖x‖, ‖y‖, ⟨x, y⟩
    terms_ptr,  # [2, n] float32: 1 − cos, ‖y − x‖², both weighted
    n,
    d,
    x_stride,
    y_stride,
    SHORTEST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start_row, within = tl.program_id(0).to(tl.int64) * BLOCK_ROWS, tl.arange(0, BLOCK_ROWS)
    row = start_row + within
    weight = tl.load(weight_ptr + row, mask=row < n, other=0.0)
    square_x = tl.zeros((BLOCK_ROWS,), tl.float32)
    square_y = tl.zeros((BLOCK_ROWS,), tl.float32)
    square_apart = tl.zeros((BLOCK_ROWS,), tl.float32)
    product = tl.zeros((BLOCK_ROWS,), tl.float32)
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        mask = (weight != 0.0)[:, None] & (column < d)[None, :]
        x = _load(x_ptr, start_row, within, x_stride, column, mask)
        y = _load(y_ptr, start_row, within, y_stride, column, mask)
        square_x += tl.sum(x * x, 1)
        square_y += tl.sum(y * y, 1)
        square_apart += tl.sum((y - x) * (y - x), 1)
        product += tl.sum(x * y, 1)

    norm_x, norm_y, apart = tl.sqrt_rn(square_x), tl.sqrt_rn(square_y), tl.sqrt_rn(square_apart)
    inverse = _inverse(norm_x, norm_y, SHORTEST)
    longer = tl.abs(norm_y - norm_x)
    near = (square_apart < norm_x * norm_y) & (inverse > 0.0)
    distance = tl.where(near, (apart - longer) * (apart + longer) * inverse * 0.5, 1.0 - product * inverse)
    inside, wide = row < n, n.to(tl.int64)
    tl.store(figures_ptr + row, norm_x, mask=inside)
    tl.store(figures_ptr + wide + row, norm_y, mask=inside)
    tl.store(figures_ptr + 2 * wide + row, product, mask=inside)
    tl.store(terms_ptr + row, weight * distance, mask=inside)
    tl.store(terms_ptr + wide + row, weight * square_apart, mask=inside)


@triton.jit
def _factors(figures_ptr, row, n, weight, upstream_ptr, inside, OWN: tl.constexpr, SHORTEST: tl.constexpr):
    """κ, 1 where h and m are near, and the factors of κh − m and of h, whose norm is the row `OWN` of the figures."""
    wide = n.to(tl.int64)
    norm_x = tl.load(figures_ptr + row, mask=inside, other=0.0)
    norm_y = tl.load(figures_ptr + wide + row, mask=inside, other=0.0)
    product = tl.load(figures_ptr + 2 * wide + row, mask=inside, other=0.0)
    cosine, mse = weight * tl.load(upstream_ptr), weight * tl.load(upstream_ptr + 1) * 2.0
    cosine *= _inverse(norm_x, norm_y, SHORTEST)
    own = norm_y if OWN == 1 else norm_x
    ratio = product / tl.where(own > SHORTEST, own * own, 1.0)
    near = norm_x * norm_x + norm_y * norm_y - 2.0 * product < norm_x * norm_y
    return tl.where(near, 1.0, 0.0), cosine + mse, tl.where(near, cosine * (ratio - 1.0), cosine * ratio + mse)


@triton.jit(do_not_specialize=["n"])
def _gradient_kernel(
    state_ptr,  # [n, d], rows `state_stride` apart
    weight_ptr,  # [n] float32
    upstream_ptr,  # [2] float32
    grad_ptr,  # [n, d] or None
    previous_ptr,  # [n, d] or None, as its figures [3, n] float32
    previous_figures_ptr,
    following_ptr,
    following_figures_ptr,
    out_ptr,  # [n, d] contiguous
    n,
    d,
    state_stride,
    grad_stride,
    previous_stride,
    following_stride,
    SHORTEST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BY_HAND: tl.constexpr,  # round to bfloat16 by hand
):
    start_row, within = tl.program_id(0).to(tl.int64) * BLOCK_ROWS, tl.arange(0, BLOCK_ROWS)
    row = start_row + within
    out_ptr += start_row * d
    inside = row < n
    weight = tl.load(weight_ptr + row, mask=inside, other=0.0)
    along = tl.zeros((BLOCK_ROWS,), tl.float32)
    if previous_ptr is not None:
        near_p, apart_p, along_p = _factors(previous_figures_ptr, row, n, weight, upstream_ptr, inside, 1, SHORTEST)
        along += along_p
    if following_ptr is not None:
        near_f, apart_f, along_f = _factors(following_figures_ptr, row, n, weight, upstream_ptr, inside, 0, SHORTEST)
        along += along_f
    for start in range(0, d, BLOCK):
        column = start + tl.arange(0, BLOCK)
        keep = inside[:, None] & (column < d)[None, :]
        mask = keep & (weight != 0.0)[:, None]
        h = _load(state_ptr, start_row, within, state_stride, column, mask)
        total = along[:, None] * h
        if previous_ptr is not None:
            m = _load(previous_ptr, start_row, within, previous_stride, column, mask)
            total += apart_p[:, None] * (near_p[:, None] * h - m)
        if following_ptr is not None:
            m = _load(following_ptr, start_row, within, following_stride, column, mask)
            total += apart_f[:, None] * (near_f[:, None] * h - m)
        if grad_ptr is not None:
            total += _load(grad_ptr, start_row, within, grad_stride, column, keep)
        store_rounded(out_ptr + ((within * d)[:, None] + column[None, :]), total, keep, BY_HAND)


def tile_shape(d: int) -> tuple[dict[str, int], dict[str, int]]:
    """Compile-time shape of the tiles for rows of `d` columns, and the options of the compiler."""
    block = min(next_power_of_2(d), WIDEST)
    return {"BLOCK_ROWS": max(1, min(TILE // block, 64)), "BLOCK": block}, {"num_warps": 8}


def launch_distances(x: Tensor, y: Tensor, figures: Tensor, weight: Tensor, shortest: float) -> Tensor:
    """D and Q `[2]` float32 of a pair h_{i−1}, h_i `[n, d]`; fills in `figures` `[3, n]`. Norms ≤ `shortest` are 0."""
    x, y = whole_rows(x), whole_rows(y)
    (n, d), (shape, options) = x.shape, tile_shape(x.shape[1])
    terms = weight.new_empty(2, n)
    if n:
        with on_device(x):
            _distances_kernel[(pieces(n, shape["BLOCK_ROWS"]),)](
                x,
                y,
                weight.contiguous(),
                figures,
                terms,
                n,
                d,
                x.stride(0),
                y.stride(0),
                SHORTEST=shortest,
                **shape,
                **options,
                **OPTIONS,
            )
    return terms.sum(1)


def launch_gradient(
    state: Tensor,
    weight: Tensor,
    upstream: Tensor,
    grad: Tensor | None,
    neighbours: tuple[Neighbour, Neighbour],
    out: Tensor,
    shortest: float,
) -> None:
    """Write the gradient in `state` `[n, d]` of its distances from both neighbours, plus `grad`, to `out`."""
    (n, d), (shape, options) = state.shape, tile_shape(state.shape[1])
    (previous, previous_figures), (following, following_figures) = neighbours
    read = [None if t is None else whole_rows(t) for t in (state, grad, previous, following)]
    state_, grad, previous, following = read
    if n:
        with on_device(out):
            _gradient_kernel[(pieces(n, shape["BLOCK_ROWS"]),)](
                state_,
                weight.contiguous(),
                upstream.contiguous(),
                grad,
                previous,
                previous_figures,
                following,
                following_figures,
                out,
                n,
                d,
                *(0 if t is None else t.stride(0) for t in read),
                SHORTEST=shortest,
                BY_HAND=rounds_by_hand(out.dtype),
                **shape,
                **options,
                **OPTIONS,
            )
