"""The sums over the light rows of their per-token figures, and of their columns, in one launch.

`sums.reduce` takes thirty for the same. Float64, in fixed order and without atomics. The angle is an arcsine, which
Triton's language lacks: that of fdlibm, a rational approximation on [0, ½] and the half-angle above, within an ulp.
"""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launching import OPTIONS, on_device, pieces
from ..sums import SCALARS, Sums

ROWS = 8192  # of one program: ten microseconds, and a common batch needs no second pass
BLOCK = 1024
PARTS, COLUMNS = 32, 64  # of the partial sums of columns that a program reads at once
WIDTH = tl.constexpr(len(SCALARS) + 3)


@triton.jit
def _arcsine(s):
    """Of `s` in [0, 1], float64."""
    small = s < 0.5
    t = tl.where(small, s * s, (1.0 - s) * 0.5)
    p = t * 3.47933107596021167570e-05 + 7.91534994289814532176e-04
    p = p * t - 4.00555345006794114027e-02
    p = p * t + 2.01212532134862925881e-01
    p = p * t - 3.25565818622400915405e-01
    p = (p * t + 1.66666666666666657415e-01) * t
    q = t * 7.70381505559019352791e-02 - 6.88283971605453293030e-01
    q = q * t + 2.02094576023350569471e00
    q = q * t - 2.40339491173441421878e00
    q = q * t + 1.0
    root = tl.where(small, s, tl.sqrt(t))
    angle = root + root * (p / q)
    return tl.where(small, angle, 1.57079632679489655800e00 - 2.0 * angle)


@triton.jit
def _figure(figures_ptr, row, which, n, mask):
    return tl.load(figures_ptr + which * n.to(tl.int64) + row, mask=mask, other=0.0).to(tl.float64)


@triton.jit
def _add(sums, figure, light):
    return sums + tl.where(light, figure, 0.0)


@triton.jit
def _add_columns(
    sums_ptr, out_ptr, half, block, parts, part_stride, half_stride, d, PARTS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Of x (half 0) or δ, the sums `[parts, 2, ≥ d]` of a block of columns, added up; out `[2, d]` float64."""
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < d
    total = tl.zeros((COLUMNS,), tl.float64)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        place = sums_ptr + part.to(tl.int64)[:, None] * part_stride + half.to(tl.int64) * half_stride + column[None, :]
        sums = tl.load(place, mask=(part < parts)[:, None] & inside[None, :], other=0.0)
        total += tl.sum(sums.to(tl.float64), 0)
    tl.store(out_ptr + half * d + column, total, mask=inside)


@triton.jit
def _add_figures(figures_ptr, status_ptr, out_ptr, program, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Figures `[5, n]` in the order of FIGURES, status `[n]`; out `[programs, 11]` float64 in the order of SCALARS."""
    zero = tl.zeros((BLOCK,), tl.float64)
    q_delta, influence, angle, ratio, norm_x, norm_y, norm_delta, rounding = (
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
    )
    lights, heavies, broken = zero, zero, zero
    first = program * ROWS
    for start in range(0, tl.minimum(ROWS, n - first), BLOCK):
        row = first + start + tl.arange(0, BLOCK)
        status = tl.load(status_ptr + row, mask=row < n, other=3)
        light = status == 0
        x = _figure(figures_ptr, row, 0, n, light)
        y = _figure(figures_ptr, row, 1, n, light)
        delta = _figure(figures_ptr, row, 2, n, light)
        product = x * y
        gap = y - x
        share = (delta * delta - gap * gap) / tl.where(product > 0.0, 2.0 * product, 1.0)
        share = tl.where(product > 0.0, tl.minimum(tl.maximum(share, 0.0), 2.0), 1.0)
        q_delta += _figure(figures_ptr, row, 3, n, light)
        influence = _add(influence, share, light)
        angle = _add(angle, _arcsine(tl.sqrt(share * 0.5)) * 0.63661977236758134308, light)
        ratio = _add(ratio, tl.where(x > 0.0, delta / tl.where(x > 0.0, x, 1.0), 0.0), light)
        norm_x += x
        norm_y += y
        norm_delta += delta
        rounding += _figure(figures_ptr, row, 4, n, light)
        lights += light.to(tl.float64)
        heavies += (status == 1).to(tl.float64)
        broken += (status == 2).to(tl.float64)
    out = out_ptr + program * WIDTH
    tl.store(out, tl.sum(q_delta))
    tl.store(out + 1, tl.sum(influence))
    tl.store(out + 2, tl.sum(angle))
    tl.store(out + 3, tl.sum(ratio))
    tl.store(out + 4, tl.sum(norm_x))
    tl.store(out + 5, tl.sum(norm_y))
    tl.store(out + 6, tl.sum(norm_delta))
    tl.store(out + 7, tl.sum(rounding))
    tl.store(out + 8, tl.sum(lights))
    tl.store(out + 9, tl.sum(heavies))
    tl.store(out + 10, tl.sum(broken))


@triton.jit(do_not_specialize=["n", "parts", "programs"])
def _totals_kernel(
    figures_ptr, status_ptr, sums_ptr, totals_ptr, columns_ptr, n, programs, parts, part_stride, half_stride, d,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The first `programs` add up figures, the others columns, of x and then of δ."""
    program = tl.program_id(0)
    if program < programs:
        _add_figures(figures_ptr, status_ptr, totals_ptr, program, n, ROWS, BLOCK)
    else:
        blocks = tl.cdiv(d, COLUMNS)
        half = (program - programs) // blocks
        block = (program - programs) % blocks
        _add_columns(sums_ptr, columns_ptr, half, block, parts, part_stride, half_stride, d, PARTS, COLUMNS)


def launch_totals(figures: Tensor, status: Tensor, sums: Tensor, d: int, width_delta: int) -> Sums:
    """What `sums.reduce` gives of the same rows, of an x of `d` columns and a δ of `width_delta`.

    `sums` `[parts, 2, ≥ d]` float32 or float64 are the sums of the columns of x̂ and of δ̂, of each part of the rows.
    """
    n = status.shape[0]
    programs = pieces(n, ROWS)
    totals = figures.new_empty((programs, WIDTH.value) if programs > 1 else WIDTH.value, dtype=torch.float64)
    columns = figures.new_empty(2, d, dtype=torch.float64)
    with on_device(totals):
        _totals_kernel[programs + 2 * pieces(d, COLUMNS),](
            figures,
            status,
            sums,
            totals,
            columns,
            n,
            programs,
            sums.shape[0],
            sums.stride(0),
            sums.stride(1),
            d,
            ROWS=ROWS,
            BLOCK=BLOCK,
            PARTS=PARTS,
            COLUMNS=COLUMNS,
            num_warps=8,
            **OPTIONS,
        )
    return Sums(columns, totals.sum(0) if programs > 1 else totals, status, width_delta)
