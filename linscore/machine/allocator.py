"""Keep freed memory in the process: a forward pass on the CPU frees and asks for the same buffers all the time.

glibc gives large freed blocks back to the system, and the next block comes back as pages to be zeroed: up to a million
page faults while 16k tokens pass a 50M decoder, a tenth of the time and most of its jitter (measured).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MOST = 2**31 - 1  # mallopt takes an int
LARGE = 16 << 20  # bytes: of blocks that are given back, pages cost little beside what is computed in them

_keeps = False


def keep_freed_memory() -> None:
    """For a process of our own, such as the command line; does nothing where the C library has no mallopt."""
    global _keeps
    _keeps = _thresholds(mmap=2**30, trim=MOST)


def give_back() -> None:
    """What is free goes back to the system once, of which a process that keeps it would keep too much."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def giving_back() -> Iterator[None]:
    """What is free goes back to the system, and large blocks do once they are freed, until the context is left.

    For work of another shape than what came before it, which fits into none of the pieces that are kept; does nothing
    where none are.
    """
    if not _keeps:
        yield
        return
    _thresholds(mmap=LARGE, trim=LARGE)
    give_back()
    try:
        yield
    finally:
        keep_freed_memory()


def _thresholds(*, mmap: int, trim: int) -> bool:
    """From which sizes on blocks are apart, and given back; whether the C library can be told."""
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, mmap)
        libc.mallopt(M_TRIM_THRESHOLD, trim)
        return True
    return False
