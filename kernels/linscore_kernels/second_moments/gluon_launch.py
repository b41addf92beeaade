"""How the Gluon kernels are launched."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ..launching import OPTIONS, capability
from ..tuning.parameters import Launch
from . import gluon_blackwell_kernel, gluon_kernel

DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@cache
def block_layout(rows: int, columns: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    """How a block of operands lies in shared memory."""
    return gl.NVMMASharedLayout.get_default_for([rows, columns], DTYPES[dtype])


def kernel_for(architecture: int) -> Any:
    """The kernel of an architecture with wgmma, 9.x, or with tensor memory, 10.x."""
    if architecture // 10 == 10:
        return gluon_blackwell_kernel._gluon_blackwell_gram_kernel
    return gluon_kernel._gluon_gram_kernel


def start(flat: Tensor, arguments: tuple, programs: tuple[int, ...], launch: Launch, piece: int) -> None:
    """Launch it on operands `[parts · rows, width]`; `arguments` are the kernel's from `tiles_ptr` on."""
    left, right = (
        TensorDescriptor.from_tensor(flat, [launch.block_k, columns], block_layout(launch.block_k, columns, flat.dtype))
        for columns in (launch.block_m, launch.block_n)
    )
    kernel_for(capability(flat))[programs](
        left,
        right,
        *arguments,
        **gluon_constants(launch, piece),
        num_warps=launch.warps,
        **OPTIONS,
    )


def gluon_constants(launch: Launch, piece: int) -> dict[str, int]:
    """Compile-time arguments of the kernel; `piece` is that of `gram_constants`."""
    blocks = {"BLOCK_M": launch.block_m, "BLOCK_N": launch.block_n, "BLOCK_K": launch.block_k}
    return blocks | {"STAGES": launch.stages, "PIECE": piece}
