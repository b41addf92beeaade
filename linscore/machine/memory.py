"""Too little memory for a batch: fewer of its rows are run at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from linscore.errors import LinscoreWarning

__all__ = ["Fitting", "is_out_of_memory"]

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory, on a device or off it."""
    # By name: torch may never have been imported. On a CPU its allocator has no class of its own.
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )


class Fitting:
    """Runs the rows of batches, all of one at once; where memory does not suffice, half as many from then on."""

    def __init__(self) -> None:
        self._most: int | None = None

    def run(self, rows: int, run: Callable[[int, int], T], after: Callable[[], object] | None = None) -> Iterator[T]:
        """What `run` gives for the rows from a first up to a last, of all `rows` in their order.

        Args:
            rows: of the batch.
            run: called with a first row and the one behind the last; where memory does not suffice, once more with
                the same first row and fewer.
            after: called after each call of it, also one that failed.

        Raises:
            Exception: whatever `run` raises, but for want of memory only where one row is too much.
        """
        first = 0
        while first < rows:
            count = min(rows - first, self._most or rows)
            failed = False
            try:
                found = run(first, first + count)
            except Exception as error:
                if count == 1 or not is_out_of_memory(error):
                    raise
                failed = True
            if after is not None:  # here, where the error no longer holds what was computed
                after()
            if failed:
                self._halve(count)
            else:
                yield found
                first += count

    def _halve(self, count: int) -> None:
        said, self._most = self._most is not None, (count + 1) // 2
        _free()
        if not said:
            warnings.warn(
                f"{count} sequences at once need more memory than there is: {self._most} are run at once, or fewer",
                LinscoreWarning,
                stacklevel=4,
            )


def _free() -> None:
    """Give back what torch keeps of a GPU's memory in pieces that were too small."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
