"""Distances of a chain of states, and their gradients, fused: a launch walks along several states.

A program takes a few rows: each state of the walk is read once, is h_i and then, still in registers, h_{i−1}. In
forward a program has all columns, so that every reduction ends in it: no atomics, fixed order.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import triton
import triton.language as tl
from torch import Tensor

from ..launching import OPTIONS, interpreted, next_power_of_2, on_device, pieces, whole_rows
from ..tiles import store_rounded

WALK = 8  # states that a launch adds to the chain, or whose gradients it writes; the longer, the less is read twice
TILE = 2048  # elements of several rows: rows that are not aligned would spill with more
WIDEST = 4096  # columns of a gradient that a program takes


@triton.jit
def _inverse(norm_x, norm_y, SHORTEST: tl.constexpr):
    both = (norm_x > SHORTEST) & (norm_y > SHORTEST)
    return tl.where(both, 1.0 / tl.where(both, norm_x * norm_y, 1.0), 0.0)


@triton.jit
def _load(ptr, start_row, within, stride, column, mask):
    """Entries of rows `start_row` + `within` as float32; offsets in a tile are 32 bit, to keep them in registers."""
    offset = (within * stride)[:, None] + column[None, :]
    return tl.load(ptr + start_row * stride + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _added(a, b, c, more_a, more_b, more_c):
    return a + more_a, b + more_b, c + more_c


@triton.jit
def _pair_sums(x, y, ONE_BY_ONE: tl.constexpr):
    """‖y‖², ‖y − x‖², ⟨x, y⟩ of each row: one reduction, but in the interpreter, which would go from entry to entry."""
    apart = y - x
    if ONE_BY_ONE:
        return tl.sum(y * y, 1), tl.sum(apart * apart, 1), tl.sum(x * y, 1)
    return tl.reduce((y * y, apart * apart, x * y), 1, _added)


@triton.jit(do_not_specialize=["n"])
def _distances_kernel(
    states,  # h_0 … h_k, [n, d] each
    strides,  # from row to row of each
    weight_ptr,  # [n] float32; rows of weight 0 are not read
    figures_ptr,  # [k, 3, n] float32: ‖h_{i−1}‖, ‖h_i‖, ⟨h_{i−1}, h_i⟩
    terms_ptr,  # [2, n] float32: sums over the pairs of 1 − cos and ‖h_i − h_{i−1}‖², both weighted
    n,
    d,
    SHORTEST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ONE_BY_ONE: tl.constexpr,
):
    start_row, within = tl.program_id(0).to(tl.int64) * BLOCK_ROWS, tl.arange(0, BLOCK_ROWS)
    row, column = start_row + within, tl.arange(0, BLOCK)
    inside, wide = row < n, n.to(tl.int64)
    weight = tl.load(weight_ptr + row, mask=inside, other=0.0)
    mask = (weight != 0.0)[:, None] & (column < d)[None, :]
    cosine = tl.zeros((BLOCK_ROWS,), tl.float32)
    mse = tl.zeros((BLOCK_ROWS,), tl.float32)
    x = _load(states[0], start_row, within, strides[0], column, mask)
    norm_x = tl.sqrt_rn(tl.sum(x * x, 1))
    for i in tl.static_range(1, len(states)):
        y = _load(states[i], start_row, within, strides[i], column, mask)
        square_y, square_apart, product = _pair_sums(x, y, ONE_BY_ONE)
        norm_y, length = tl.sqrt_rn(square_y), tl.sqrt_rn(square_apart)
        inverse = _inverse(norm_x, norm_y, SHORTEST)
        longer = tl.abs(norm_y - norm_x)
        near = (square_apart < norm_x * norm_y) & (inverse > 0.0)
        cosine += tl.where(near, (length - longer) * (length + longer) * inverse * 0.5, 1.0 - product * inverse)
        mse += square_apart
        figures = figures_ptr + (3 * i - 3) * wide + row
        tl.store(figures, norm_x, mask=inside)
        tl.store(figures + wide, norm_y, mask=inside)
        tl.store(figures + 2 * wide, product, mask=inside)
        x, norm_x = y, norm_y
    tl.store(terms_ptr + row, weight * cosine, mask=inside)
    tl.store(terms_ptr + wide + row, weight * mse, mask=inside)


@triton.jit
def _factors(figures_ptr, row, n, weight, upstream_ptr, inside, SHORTEST: tl.constexpr):
    """Of a pair: κ, 1 where both are near, the factor of κh − m, and those of h where it is the first or the second."""
    wide = n.to(tl.int64)
    norm_x = tl.load(figures_ptr + row, mask=inside, other=0.0)
    norm_y = tl.load(figures_ptr + wide + row, mask=inside, other=0.0)
    product = tl.load(figures_ptr + 2 * wide + row, mask=inside, other=0.0)
    cosine, mse = weight * tl.load(upstream_ptr), weight * tl.load(upstream_ptr + 1) * 2.0
    cosine *= _inverse(norm_x, norm_y, SHORTEST)
    near = norm_x * norm_x + norm_y * norm_y - 2.0 * product < norm_x * norm_y
    first = _along(norm_x, product, cosine, mse, near, SHORTEST)
    second = _along(norm_y, product, cosine, mse, near, SHORTEST)
    return tl.where(near, 1.0, 0.0), cosine + mse, first, second


@triton.jit
def _along(norm, product, cosine, mse, near, SHORTEST: tl.constexpr):
    """The factor of a state of this norm in its own gradient."""
    ratio = product / tl.where(norm > SHORTEST, norm * norm, 1.0)
    return tl.where(near, cosine * (ratio - 1.0), cosine * ratio + mse)


@triton.jit(do_not_specialize=["n"])
def _gradients_kernel(
    states,  # h_0 … h_k, [n, d] each
    strides,  # from row to row of each
    figures,  # of each of the k pairs, [3, n] float32
    weight_ptr,  # [n] float32
    upstream_ptr,  # [2] float32
    grads,  # of each state [n, d] or None: what is added to its gradient
    grad_strides,
    outs,  # of each state [n, d] contiguous, or None: no gradient is asked for
    n,
    d,
    SHORTEST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BY_HAND: tl.constexpr,  # round to bfloat16 by hand
):
    start_row, within = tl.program_id(0).to(tl.int64) * BLOCK_ROWS, tl.arange(0, BLOCK_ROWS)
    row, column = start_row + within, tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n
    weight = tl.load(weight_ptr + row, mask=inside, other=0.0)
    keep = inside[:, None] & (column < d)[None, :]
    mask = keep & (weight != 0.0)[:, None]
    h = _load(states[0], start_row, within, strides[0], column, mask)
    total = tl.zeros((BLOCK_ROWS, BLOCK), tl.float32)
    for i in tl.static_range(len(states)):
        if i + 1 < len(states):
            following = _load(states[i + 1], start_row, within, strides[i + 1], column, mask)
            near, apart, first, second = _factors(figures[i], row, n, weight, upstream_ptr, inside, SHORTEST)
            near, apart = near[:, None], apart[:, None]
            total += first[:, None] * h + apart * (near * h - following)
        if outs[i] is not None:
            if grads[i] is not None:
                total += _load(grads[i], start_row, within, grad_strides[i], column, keep)
            pointers = outs[i] + start_row * d + ((within * d)[:, None] + column[None, :])
            store_rounded(pointers, total, keep, BY_HAND and outs[i].dtype.element_ty == tl.bfloat16)
        if i + 1 < len(states):
            total = second[:, None] * following + apart * (near * following - h)
            h = following


def tile_shape(d: int, widest: int | None = None) -> tuple[dict[str, int], dict[str, int]]:
    """Compile-time shape of the tiles for rows of `d` columns, `widest` at most, and the options of the compiler."""
    block = next_power_of_2(d) if widest is None else min(next_power_of_2(d), widest)
    return {"BLOCK_ROWS": max(1, min(TILE // block, 64)), "BLOCK": block}, {"num_warps": 8 if block <= 8192 else 16}


def forward_walks(states: int) -> list[slice]:
    """The states that each launch of a chain's distances reads: the last ones of a walk begin the next."""
    return [slice(start, min(start + WALK + 1, states)) for start in range(0, states - 1, WALK)]


def backward_walks(states: int) -> list[tuple[slice, slice]]:
    """The states that each launch of a chain's gradients reads, and those whose gradients it writes."""
    count = pieces(states, WALK + 1)
    edges = [states * i // count for i in range(count + 1)]
    return [(slice(max(start - 1, 0), min(stop + 1, states)), slice(start, stop)) for start, stop in pairwise(edges)]


def launch_distances(states: Sequence[Tensor], figures: Tensor, weight: Tensor, shortest: float) -> Tensor:
    """D and Q `[2]` float32 of a chain `[n, d]`; fills in `figures` `[L, 3, n]`. Norms ≤ `shortest` count as 0."""
    (n, d), (shape, options) = states[0].shape, tile_shape(states[0].shape[1])
    walks = forward_walks(len(states))
    terms, weight = weight.new_empty(len(walks), 2, n), weight.contiguous()
    for walk, sums in zip(walks if n else (), terms, strict=False):
        read = [whole_rows(state) for state in states[walk]]
        with on_device(figures):
            _distances_kernel[(pieces(n, shape["BLOCK_ROWS"]),)](
                tuple(read),
                tuple(state.stride(0) for state in read),
                weight,
                figures[walk.start],
                sums,
                n,
                d,
                SHORTEST=shortest,
                ONE_BY_ONE=interpreted(),
                **shape,
                **options,
                **OPTIONS,
            )
    return terms.sum((0, 2))


def launch_gradients(
    states: Sequence[Tensor],
    figures: Sequence[Tensor],
    weight: Tensor,
    upstream: Tensor,
    grads: Sequence[Tensor | None],
    outs: Sequence[Tensor | None],
    shortest: float,
) -> None:
    """Write the gradients in a chain of states `[n, d]`, plus `grads`, to `outs` where there are any."""
    (n, d), (shape, options) = states[0].shape, tile_shape(states[0].shape[1], WIDEST)
    grid = pieces(n, shape["BLOCK_ROWS"]), pieces(d, shape["BLOCK"])
    weight, upstream = weight.contiguous(), upstream.contiguous()
    for walk, written in backward_walks(len(states)):
        asked = [out if written.start <= i < written.stop else None for i, out in enumerate(outs)][walk]
        if not n or all(out is None for out in asked):
            continue
        read, added = ([t if t is None else whole_rows(t) for t in given[walk]] for given in (states, grads))
        with on_device(weight):
            _gradients_kernel[grid](
                tuple(read),
                tuple(map(_stride, read)),
                tuple(figures[walk][: len(read) - 1]),
                weight,
                upstream,
                tuple(added),
                tuple(map(_stride, added)),
                tuple(asked),
                n,
                d,
                SHORTEST=shortest,
                BY_HAND=interpreted(),
                **shape,
                **options,
                **OPTIONS,
            )


def _stride(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.stride(0)
