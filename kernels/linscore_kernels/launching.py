"""Where a kernel runs: the device of its tensors, or the interpreter that runs it on the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

# Passed explicitly because FP fusion's default changes in Triton 3.10.
OPTIONS = {"enable_fp_fusion": True}


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 was set when Triton's kernels were defined."""
    return bool(triton.knobs.runtime.interpret)


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
