"""The Gram products [Σx̂x̂ᵀ | Σx̂δ̂ᵀ], the first in its upper triangle: d² + 2de FLOP per token in one launch.

The token axis is the reduction axis and is shared by several programs (split-K) where tiles alone leave multiprocessors
idle; each writes a float32 partial tile of its own, without atomics. Where one program has all tokens of a tile it adds
the tile to the float64 sums itself. The loop is pure: operands come ready from
token_stats. Split operands take three passes, Σ lo·hi + Σ hi·lo + Σ hi·hi, smallest first into one accumulator.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..errors import LinscoreError
from ..launching import OPTIONS, interpreted, multiprocessors, on_device, pieces
from ..tiles import halves
from ..tuning.parameters import Launch
from .merge_kernel import add_sums, launch_merge
from .tile_list import splits_for, tile_list

ONE_SUM = ("flattened", "gluon")  # kernels that know neither several passes nor flushed sums
PIECE = 4  # columns per warp of what is added to float64 sums at once: 32 registers a thread for tiles of 128 rows


@triton.jit
def _products(
    left, right, left_column, right_column, right_part, begin, steps, longest, rows, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr, DESCRIPTORS: tl.constexpr, UPCAST: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    """One accumulator over `steps` blocks of tokens from row `begin`, all passes.

    With FLATTEN, and not SPLIT, the loop goes on to `longest` steps, with zeros: loops that become one are as long.
    """
    tl.static_assert(not (SPLIT and FLATTEN))
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in range(steps * 3 if SPLIT else longest if FLATTEN else steps):
        row, column_limit = begin + i * BLOCK_K, width
        if FLATTEN:
            row = tl.where(i < steps, row, 2 * rows)  # behind the last one, where descriptors find zeros
            column_limit = tl.where(i < steps, width, 0)
        left_row, right_row = row, row + right_part * rows
        if SPLIT:  # part 0 is hi, part 1 lo
            second, third = (i >= steps).to(tl.int32), (i >= 2 * steps).to(tl.int32)
            row -= (second + third) * steps * BLOCK_K
            left_row = row + (1 - second) * rows
            right_row = row + (right_part + second - third) * rows
        if DESCRIPTORS:
            a = left.load([left_row, left_column]).T
            b = right.load([right_row, right_column])
        else:
            token = tl.arange(0, BLOCK_K) * width
            m = left_column + tl.arange(0, BLOCK_M)[:, None]  # addressed as transposed, which the pipeliner follows
            k = right_column + tl.arange(0, BLOCK_N)[None, :]
            a = tl.load(left + left_row.to(tl.int64) * width + (token[None, :] + m), mask=m < column_limit, other=0.0)
            b = tl.load(right + right_row.to(tl.int64) * width + (token[:, None] + k), mask=k < column_limit, other=0.0)
        if UPCAST:  # the interpreter multiplies bfloat16 as integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums)
    return sums


@triton.jit
def _flushed_products(
    left, right, left_column, right_column, right_part, first, count, longest, rows, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, FLUSH: tl.constexpr,
    SPLIT: tl.constexpr, DESCRIPTORS: tl.constexpr, UPCAST: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    """The same over `count` blocks of tokens from the `first`, no sum of the tensor core longer than FLUSH of them."""
    tl.static_assert(not (FLUSH and FLATTEN))
    if FLUSH == 0:
        sums = _products(
            left, right, left_column, right_column, right_part, first * BLOCK_K, count, longest, rows, width,
            BLOCK_M, BLOCK_N, BLOCK_K, SPLIT, DESCRIPTORS, UPCAST, FLATTEN,
        )  # fmt: skip
    else:
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, count, FLUSH):
            sums += _products(
                left, right, left_column, right_column, right_part, (first + start) * BLOCK_K,
                tl.minimum(FLUSH, count - start), FLUSH, rows, width,
                BLOCK_M, BLOCK_N, BLOCK_K, SPLIT, DESCRIPTORS, UPCAST, False,
            )  # fmt: skip
    return sums


@triton.jit
def _store_tile(tile, out, row, column, columns_left, d, columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Write a tile whose columns stop `columns_left` after `column`."""
    m, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    pointers = out + row.to(tl.int64) * columns + column + m[:, None] * columns + k[None, :]
    tl.store(pointers, tile, mask=(row + m < d)[:, None] & (k < columns_left)[None, :])


@triton.jit
def _store_sums(
    sums, out, row, column, columns_left, d, columns,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    if HALVES:
        HALF: tl.constexpr = BLOCK_N // 2
        low, high = halves(sums, BLOCK_M, BLOCK_N)
        _store_tile(low, out, row, column, columns_left, d, columns, BLOCK_M, HALF)
        _store_tile(high, out, row, column + HALF, columns_left - HALF, d, columns, BLOCK_M, HALF)
    else:
        _store_tile(sums, out, row, column, columns_left, d, columns, BLOCK_M, BLOCK_N)


@triton.jit
def _gram_tile(
    left, right, tiles_ptr, out_ptr, scale_ptr, tile, share, sign, out_stride, rows, width, d, width_delta,
    steps, split_steps,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, FLUSH: tl.constexpr, HALVES: tl.constexpr,
    PIECE: tl.constexpr, SPLIT: tl.constexpr, DESCRIPTORS: tl.constexpr, UPCAST: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    """The products of one `share` of the tokens for one `tile` of the list."""
    i = tl.load(tiles_ptr + 2 * tile)
    j = tl.load(tiles_ptr + 2 * tile + 1)
    half_tiles = tl.cdiv(d, BLOCK_N)
    of_delta = (j >= half_tiles).to(tl.int32)
    left_column, right_column = i * BLOCK_M, (j - of_delta * half_tiles) * BLOCK_N
    right_part = of_delta * 2 if SPLIT else of_delta
    first = share * split_steps
    count = tl.minimum(split_steps, steps - first)
    sums = _flushed_products(
        left, right, left_column, right_column, right_part, first, count, split_steps, rows, width,
        BLOCK_M, BLOCK_N, BLOCK_K, FLUSH, SPLIT, DESCRIPTORS, UPCAST, FLATTEN,
    )  # fmt: skip
    columns = d + width_delta
    out = out_ptr + share.to(tl.int64) * d * columns
    column, columns_left = right_column + of_delta * d, tl.where(of_delta == 1, width_delta, d) - right_column
    if PIECE == 0:
        _store_sums(sums, out, left_column, column, columns_left, d, columns, BLOCK_M, BLOCK_N, HALVES)
    else:
        add_sums(
            sums, out_ptr, scale_ptr, left_column, column, columns_left, d, out_stride, sign, BLOCK_M, BLOCK_N, PIECE
        )


@triton.jit(do_not_specialize=["steps", "split_steps", "tiles", "works", "sign"])  # they vary with the batch
def _gram_kernel(
    left,  # [parts · rows, width] descriptor with blocks [BLOCK_K, BLOCK_M], or pointer
    right,  # the same operands with blocks [BLOCK_K, BLOCK_N]
    width,
    tiles_ptr,  # [tiles, 2] int32: row of tiles; column of tiles, δ after x
    out_ptr,  # [splits, d, d + e] float32; where PIECE is set the sums themselves, rows `out_stride` apart
    scale_ptr,  # [d + e] float32 powers of two that the operands were multiplied by, or None
    sign,
    out_stride,
    rows,  # of one part
    d,
    width_delta,  # e
    steps,  # blocks of tokens in all
    split_steps,  # and of one split
    tiles,  # how many
    works,  # tiles · splits
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FLUSH: tl.constexpr,  # blocks of tokens after which the tensor core's sum goes to a rounded one; 0: never
    HALVES: tl.constexpr,  # store in two halves, where the whole tile spills
    PIECE: tl.constexpr,  # columns of a piece that is added to the sums; 0: partial tiles are stored
    SPLIT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    UPCAST: tl.constexpr,
    PERSISTENT: tl.constexpr,  # as many programs as run at once, each with one tile after the other
    FLATTEN: tl.constexpr,  # loads of a tile begin while the one before it is written
):
    if PERSISTENT:
        for work in tl.range(tl.program_id(0), works, tl.num_programs(0), flatten=FLATTEN):
            _gram_tile(
                left, right, tiles_ptr, out_ptr, scale_ptr, work % tiles, work // tiles, sign, out_stride, rows, width,
                d, width_delta, steps, split_steps,
                BLOCK_M, BLOCK_N, BLOCK_K, FLUSH, HALVES, PIECE, SPLIT, DESCRIPTORS, UPCAST, FLATTEN,
            )  # fmt: skip
    else:
        _gram_tile(
            left, right, tiles_ptr, out_ptr, scale_ptr, tl.program_id(0), tl.program_id(1), sign, out_stride, rows,
            width, d, width_delta, steps, split_steps,
            BLOCK_M, BLOCK_N, BLOCK_K, FLUSH, HALVES, PIECE, SPLIT, DESCRIPTORS, UPCAST, False,
        )  # fmt: skip


def gram_constants(launch: Launch, *, split: bool, merge: bool, upcast: bool) -> dict[str, Any]:
    """Compile-time arguments of the kernel."""
    return {
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
        "BLOCK_K": launch.block_k,
        "FLUSH": launch.flush // launch.block_k,
        "HALVES": launch.halves,
        "PIECE": PIECE * launch.warps if merge else 0,
        "SPLIT": split,
        "DESCRIPTORS": launch.descriptors,
        "UPCAST": upcast,
        "PERSISTENT": launch.kernel != "tile",
        "FLATTEN": launch.kernel == "flattened",
    }


def grid(launch: Launch, tiles: int, splits: int, programs: int) -> tuple[int, ...]:
    """A program for each tile and share of its tokens; of a persistent kernel as many as the device runs at once."""
    if launch.kernel == "tile":
        return tiles, splits
    return (min(tiles * splits, programs * max(1, 8 // launch.warps)),)  # 8 warps take the registers of one


def launch_gram(
    operands: Tensor,
    out: Tensor,
    launch: Launch,
    splits: int | None = None,
    *,
    scale: Tensor | None = None,
    sign: int = 1,
) -> None:
    """Add `sign` times the products of `operands` `[2 or 4, rows, width]` to `out` `[d, d + e]` float32 or float64.

    In one launch where a program has all tokens of its tile, else by partial sums that are merged. `scale` `[d + e]`
    holds the powers of two that the operands were multiplied by. Entries of `out` below the diagonal may vary.
    """
    parts, rows, width = operands.shape
    if launch.kernel in ONE_SUM and (parts == 4 or launch.flush):
        raise LinscoreError(f"the {launch.kernel} kernel takes single operands, in one sum: choose another for these")
    d, columns = out.shape
    tiles = tile_list(d, launch.block_m, launch.block_n, operands.device, columns - d, launch.group)
    count, steps, at_once = tiles.shape[0], rows // launch.block_k, multiprocessors(operands)
    splits = min(splits or splits_for(rows, count, at_once), steps)
    split_steps = pieces(steps, splits)
    splits = pieces(steps, split_steps)
    merge = splits == 1
    target = out if merge else operands.new_empty(splits, d, columns, dtype=torch.float32)
    flat, programs = operands.view(parts * rows, width), grid(launch, count, splits, at_once)
    arguments = (
        tiles, target, scale if merge else None, sign, out.stride(0), rows, d, columns - d, steps, split_steps, count,
        count * splits,
    )  # fmt: skip
    with on_device(operands):
        if launch.kernel == "gluon":
            from .gluon_launch import start  # Gluon is an experiment of Triton's, and not of every version

            start(flat, arguments, programs, launch, PIECE * launch.warps if merge else 0)
        else:
            _gram_kernel[programs](
                *_left_and_right(flat, launch),
                width,
                *arguments,
                **gram_constants(launch, split=parts == 4, merge=merge, upcast=interpreted()),
                num_warps=launch.warps,
                num_stages=launch.stages,
                **OPTIONS,
            )
    if not merge:
        launch_merge(target, out, scale=scale, sign=sign)


def _left_and_right(flat: Tensor, launch: Launch) -> tuple[Tensor | TensorDescriptor, Tensor | TensorDescriptor]:
    """The operands as the kernel loads them."""
    if not launch.descriptors:
        return flat, flat
    left, right = (
        TensorDescriptor.from_tensor(flat, [launch.block_k, columns]) for columns in (launch.block_m, launch.block_n)
    )
    return left, right
