"""‖δ − (x − μ_x)B − μ_δ‖ of each token: a product with a row-norm epilogue; the residual is never stored.

B is rounded to the 16 bits of x, column by column scaled by a power of two so that float16 holds it, and the means
become one bias, c = μ_δ − μ_x B of the rounded B: so x goes to the tensor core as it lies in memory, and

    ‖r‖² = Σ_j (δ_j − (xB)_j − c_j)²

Each program squares one tile of tokens and columns and writes its share of the row sums; shares are added in fixed
order, without atomics.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad
from triton.tools.tensor_descriptor import TensorDescriptor

from ..launching import (
    COLUMN_ALIGN,
    OPTIONS,
    aligned,
    capability,
    interpreted,
    on_device,
    pieces,
    whole_rows,
)
from ..second_moments.torch_products import float32_product
from ..tiles import halves
from ..tuning.parameters import Launch, launch_for, torch_is_faster

GROUP = 8  # rows of tiles that run together, so that their operands meet in L2
MAP_ALIGN = 256  # the rounded B is padded with zeros to a multiple of every block, so that no loop masks it
EXPONENT = 15  # columns of B are scaled to below 2^15: float16 then holds entries down to 2^-28 of the largest in full
STRIP = 1024  # rows of B that are rounded at a time
TORCH_ROWS = 8192  # tokens of one product where torch does it, which stores the residual


class RoundedMap(NamedTuple):
    """A fitted map as the product takes it; `width` is `d` padded with zeros to a multiple of COLUMN_ALIGN."""

    matrix: Tensor  # [≥ width, ≥ width] 16 bit: B with columns divided by `unit`, then zeros
    unit: Tensor  # [width] float32, powers of two
    bias: Tensor  # [width] float32: μ_δ − μ_x B, of the rounded B


@triton.jit
def _squares(
    product, x_ptr, other_ptr, unit_ptr, bias_ptr, x_row, other_row, first_column, width,
    COLUMNS: tl.constexpr, DELTA_GIVEN: tl.constexpr,
):  # fmt: skip
    """Σ_j (δ − product − bias)² over `COLUMNS` columns of each row."""
    column = first_column + tl.arange(0, COLUMNS)
    mask = column < width
    delta = tl.load(other_ptr + (other_row[:, None] + column[None, :]), mask=mask[None, :], other=0.0).to(tl.float32)
    if not DELTA_GIVEN:
        delta -= tl.load(x_ptr + (x_row[:, None] + column[None, :]), mask=mask[None, :], other=0.0).to(tl.float32)
    unit = tl.load(unit_ptr + column, mask=mask, other=0.0)[None, :]
    residual = delta - product * unit - tl.load(bias_ptr + column, mask=mask, other=0.0)[None, :]
    return tl.sum(residual * residual, 1)


@triton.jit
def _tile_squares(
    product, x_ptr, other_ptr, unit_ptr, bias_ptr, x_row, other_row, first_column, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HALVES: tl.constexpr, DELTA_GIVEN: tl.constexpr,
):  # fmt: skip
    if HALVES:
        HALF: tl.constexpr = BLOCK_N // 2
        low, high = halves(product, BLOCK_M, BLOCK_N)
        squares = _squares(
            low, x_ptr, other_ptr, unit_ptr, bias_ptr, x_row, other_row, first_column, width, HALF, DELTA_GIVEN
        )
        tl.debug_barrier()  # or the loads of both halves are issued first, and spill
        squares += _squares(
            high, x_ptr, other_ptr, unit_ptr, bias_ptr, x_row, other_row, first_column + HALF, width, HALF, DELTA_GIVEN
        )
    else:
        squares = _squares(
            product, x_ptr, other_ptr, unit_ptr, bias_ptr, x_row, other_row, first_column, width, BLOCK_N, DELTA_GIVEN
        )
    return squares


@triton.jit
def _product(
    left, right, x_ptr, x_row, row_start, column_start, width, right_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile of xB."""
    k, column = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_N)
    product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(tl.cdiv(width, BLOCK_K)):
        start = step * BLOCK_K
        if left is not None:
            a = left.load([row_start, start])
            b = right.load([start, column_start])
        else:
            a = tl.load(x_ptr + start + (x_row[:, None] + k[None, :]), mask=(k < width - start)[None, :], other=0.0)
            corner = start.to(tl.int64) * right_stride + column_start
            b = tl.load(right + corner + (k[:, None] * right_stride + column[None, :]))
        if UPCAST:  # the interpreter multiplies bfloat16 as integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        product = tl.dot(a, b, product)
    return product


@triton.jit(do_not_specialize=["n"])
def _residual_norms_kernel(
    left,  # x [n, width] 16 bit: descriptor with blocks [BLOCK_M, BLOCK_K]; None: read through x_ptr
    right,  # the rounded B, padded: descriptor with blocks [BLOCK_K, BLOCK_N], or pointer
    x_ptr,  # [n, width], rows `x_stride` apart
    other_ptr,  # [n, width] y, or δ where it is given
    unit_ptr,  # [width] float32
    bias_ptr,  # [width] float32
    out_ptr,  # [tiles of columns, n] float32: the squares of a row summed over the columns of a tile
    n,
    width,
    x_stride,
    other_stride,
    right_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    HALVES: tl.constexpr,  # square in two halves, where the whole tile spills
    DELTA_GIVEN: tl.constexpr,
    UPCAST: tl.constexpr,
):
    column_tiles = tl.cdiv(width, BLOCK_N)
    first = tl.program_id(0) // (GROUP * column_tiles) * GROUP
    group = tl.minimum(tl.cdiv(n, BLOCK_M) - first, GROUP)
    within = tl.program_id(0) % (GROUP * column_tiles)
    row_start, column_tile = (first + within % group) * BLOCK_M, within // group
    column_start = column_tile * BLOCK_N
    # Offsets within a tile are 32 bit, which keeps them in registers; rows past the last repeat it and are not stored.
    row = tl.minimum(tl.arange(0, BLOCK_M), n - 1 - row_start)
    x_row, other_row = row * x_stride, row * other_stride
    x_ptr += row_start.to(tl.int64) * x_stride
    other_ptr += row_start.to(tl.int64) * other_stride
    product = _product(
        left, right, x_ptr, x_row, row_start, column_start, width, right_stride, BLOCK_M, BLOCK_N, BLOCK_K, UPCAST
    )
    squares = _tile_squares(
        product, x_ptr, other_ptr, unit_ptr, bias_ptr, x_row, other_row, column_start, width,
        BLOCK_M, BLOCK_N, HALVES, DELTA_GIVEN,
    )  # fmt: skip
    row = row_start + tl.arange(0, BLOCK_M)
    tl.store(out_ptr + column_tile.to(tl.int64) * n + row, squares, mask=row < n)


def round_map(b: Tensor, mean_x: Tensor, mean_delta: Tensor, dtype: torch.dtype) -> RoundedMap:
    """B `[d, d]` rounded to 16 bits, and what takes the place of both means `[d]`."""
    d = len(b)
    padded, width = aligned(d, MAP_ALIGN), aligned(d, COLUMN_ALIGN)
    _, exponent = torch.frexp(torch.linalg.vector_norm(b, torch.inf, dim=0).double())
    unit = torch.exp2((exponent - EXPONENT).clamp(-120, 120).double())  # float32 holds it
    matrix, bias = b.new_zeros(padded, padded, dtype=dtype), mean_delta.double()
    for start in range(0, d, STRIP):
        strip = slice(start, min(start + STRIP, d))
        matrix[strip, :d] = b[strip] / unit
        bias = bias - (mean_x[strip].double() @ matrix[strip, :d].double()) * unit
    extra = (0, width - d)
    return RoundedMap(matrix, pad(unit.float(), extra), pad(bias.float(), extra))


def residual_constants(launch: Launch, *, delta_given: bool, upcast: bool) -> dict[str, Any]:
    """Compile-time arguments of the kernel."""
    return {
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
        "BLOCK_K": launch.block_k,
        "GROUP": GROUP,
        "HALVES": launch.halves,
        "DELTA_GIVEN": delta_given,
        "UPCAST": upcast,
    }


def launch_residual_norms(
    x: Tensor, other: Tensor, fitted: RoundedMap, *, delta_given: bool, launch: Launch | None = None
) -> Tensor:
    """Norms `[n]` float32 for 16-bit `x` and y or δ, `other`, `[n, d]`; NaN for rows that are not finite.

    `launch` replaces the one that is chosen otherwise.
    """
    d, x, other = x.shape[1], whole_rows(x, COLUMN_ALIGN), whole_rows(other, COLUMN_ALIGN)
    if launch is None and torch_is_faster(capability(x), d, "residual"):
        return torch_norms(x, other, fitted, delta_given=delta_given)
    launch = launch or launch_for(capability(x), d, "residual")
    n, width = x.shape
    left: TensorDescriptor | None = None
    right: TensorDescriptor | Tensor = fitted.matrix
    if launch.descriptors:
        left = TensorDescriptor.from_tensor(x, [launch.block_m, launch.block_k])
        right = TensorDescriptor.from_tensor(fitted.matrix, [launch.block_k, launch.block_n])
    column_tiles = pieces(width, launch.block_n)
    squares = x.new_empty(column_tiles, n, dtype=torch.float32)
    with on_device(x):
        _residual_norms_kernel[(pieces(n, launch.block_m) * column_tiles,)](
            left,
            right,
            x,
            other,
            fitted.unit,
            fitted.bias,
            squares,
            n,
            width,
            x.stride(0),
            other.stride(0),
            fitted.matrix.stride(0),
            **residual_constants(launch, delta_given=delta_given, upcast=interpreted()),
            num_warps=launch.warps,
            num_stages=launch.stages,
            **OPTIONS,
        )
    return squares.sum(0, dtype=torch.float64).sqrt().float()


def torch_norms(x: Tensor, other: Tensor, fitted: RoundedMap, *, delta_given: bool) -> Tensor:
    """The same by torch's product, for the widths at which a measurement found it faster."""
    width = x.shape[1]
    norms = []
    for x_part, other_part in zip(x.split(TORCH_ROWS), other.split(TORCH_ROWS), strict=True):
        residual = other_part.float() - fitted.bias
        if not delta_given:
            residual -= x_part
        residual -= float32_product(x_part, fitted.matrix[:width, :width]) * fitted.unit
        norms.append(torch.linalg.vector_norm(residual, dim=1))
    return torch.cat(norms)
