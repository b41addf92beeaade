"""The memory that the eager backend works in, kept from call to call.

What a library frees goes back to the system and comes again as pages to be zeroed, which costs a small update of wide
states a fifth of its time (decisions: Buffers that are kept).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

MOST = 256 << 20  # bytes that a process keeps: all that d = 4,096 asks for; what is wider is asked for anew
ALIGNMENT = 64  # bytes, of a cache line

_kept: list[Tensor] = []  # one buffer of bytes at most; whoever works in it has taken it out, whatever the thread


class Workspace:
    """Tensors for one call, of `buffer` as far as it goes; what they hold at first is arbitrary."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer, self.wanted = buffer, 0

    def take(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """A tensor of that shape."""
        size = math.prod(shape) * dtype.itemsize
        start, self.wanted = self.wanted, self.wanted + math.ceil(size / ALIGNMENT) * ALIGNMENT
        if self.wanted > len(self._buffer):
            return self._buffer.new_empty(shape, dtype=dtype)
        return self._buffer[start : start + size].view(dtype).view(shape)


@contextmanager
def workspace(device: torch.device) -> Iterator[Workspace]:
    """A workspace on `device`. Its memory is kept on a CPU alone: torch keeps that of a GPU itself."""
    if device.type != "cpu":
        yield Workspace(torch.empty(0, dtype=torch.uint8, device=device))
        return
    try:
        buffer = _kept.pop()
    except IndexError:  # the first call, or another thread has it
        buffer = _buffer(0)
    work = Workspace(buffer)
    try:
        yield work
    finally:
        _kept[:] = [_buffer(work.wanted) if len(buffer) < work.wanted <= MOST else buffer]


def _buffer(size: int) -> Tensor:
    with torch.inference_mode(False):  # what is born in inference mode could not be written to outside of it
        return torch.empty(size, dtype=torch.uint8)
