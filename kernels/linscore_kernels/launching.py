"""What every launch shares: where a kernel runs, how its tensors lie in memory, what the interpreter needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

from .errors import LinscoreError

# Passed explicitly because FP fusion's default changes in Triton 3.10.
OPTIONS = {"enable_fp_fusion": True}
COLUMN_ALIGN = 16  # rows of whole tiles have a multiple of so many columns: 32 bytes, for descriptors (16) and loads


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 was set when Triton's kernels were defined."""
    return bool(triton.knobs.runtime.interpret)


def check_device(tensor: Tensor) -> None:
    """Raises LinscoreError where Triton has no kernels for the device of `tensor`."""
    if not (tensor.is_cuda or interpreted()):
        raise LinscoreError(
            f"Triton has no kernels for {tensor.device}: use the eager backend, or set TRITON_INTERPRET=1"
        )


def on_device(tensor: Tensor) -> AbstractContextManager:
    """A context in which kernels are launched on the device of `tensor`: Triton takes the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def capability(tensor: Tensor) -> int:
    """Compute capability as 10·major + minor; 0 on the CPU."""
    if not tensor.is_cuda:
        return 0
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def multiprocessors(tensor: Tensor) -> int:
    """How many programs run at once; on the CPU the 132 of an H100, so that the interpreter takes the same path."""
    if not tensor.is_cuda:
        return 132
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


def pieces(size: int, step: int) -> int:
    """How many pieces of `step` cover `size`: what triton.cdiv says, which takes 7 µs of each call on the host."""
    return -(-size // step)


def aligned(size: int, step: int) -> int:
    """`size` rounded up to a multiple of `step`."""
    return pieces(size, step) * step


def next_power_of_2(size: int) -> int:
    """The least power of two that is not below `size` ≥ 1."""
    return 1 << (size - 1).bit_length()


def whole_rows(tensor: Tensor, columns: int = 1) -> Tensor:
    """`tensor` `[n, d]` if each row lies in one piece, of a multiple of `columns`, else a copy padded with zeros.

    With COLUMN_ALIGN rows also begin at multiples of 16 bytes, as descriptors ask, and no vector load has to be masked,
    which would spill.
    """
    d, (row, step) = tensor.shape[1], tensor.stride()
    boundary = min(16, columns * tensor.element_size())
    if step == 1 and d % columns == row % columns == tensor.data_ptr() % boundary == 0:
        return tensor
    whole = tensor.new_zeros(len(tensor), aligned(d, columns))
    whole[:, :d] = tensor
    return whole


def rounds_by_hand(dtype: torch.dtype) -> bool:
    """Whether `tiles.store_rounded` has to round to `dtype` by hand."""
    return interpreted() and dtype is torch.bfloat16
