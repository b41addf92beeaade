"""What kernels share on the device: a tile in halves, and a store that rounds."""

# mypy: allow-untyped-defs
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def halves(tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The left and the right half of a tile: finished one after the other where the whole one spills."""
    return tl.split(tl.permute(tl.reshape(tile, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))


@triton.jit
def store_rounded(pointers, value, mask, BY_HAND: tl.constexpr):
    """Store float32 values in the dtype of the pointers, rounded once to the nearest, ties to even.

    BY_HAND to bfloat16 in the interpreter, which truncates; GPUs round.
    """
    if BY_HAND:
        bits = value.to(tl.uint32, bitcast=True)
        value = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    tl.store(pointers, value.to(pointers.dtype.element_ty), mask=mask)
