"""Batches made ahead of a device: read, tokenized and packed in a thread while the device works on those before.

A thread is enough: tokenizers leave Python alone while they work, which is most of it (decisions: Read ahead of a GPU).
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from linscore.text.documents import Say

AHEAD = 4  # batches
NAME = "linscore-text"  # of the thread
PATIENCE = 1.0  # seconds that a thread is waited for, which may hang in a network


class _Made(NamedTuple):
    """What came of asking for one more batch."""

    doubts: list[Callable[[], None]]  # about the text, to be said before
    batch: dict[str, Tensor] | None
    error: BaseException | None  # in place of a batch; StopIteration after the last


class Ahead:
    """Takes batches from an iterator a few ahead of who uses them: the same ones, in the same order.

    An error comes in the place of its batch, and doubts about the text before the batch that they were met in. The
    thread ends once it is far enough ahead, and the next batch that is taken starts another: none waits for somebody
    who takes no more.

    Args:
        device: the one that the batches are for. Those for a GPU are pinned; those for a CPU, which would have to make
            them meanwhile, are made when they are wanted, and so are all with None.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._device = None if device is None or device.type == "cpu" else device
        self._changed = threading.Condition()
        self._made: deque[_Made] = deque()
        self._doubts: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._works = self._over = False  # whether the thread makes batches, and whether no more are wanted

    def in_place(self, say: Say) -> Say:
        """Says doubts that come while batches are made when their batch is taken, and at once before the first."""

        def later(line: str) -> None:
            if threading.current_thread() is self._thread:
                self._doubts.append(partial(say, line))
            else:
                say(line)

        return later

    def read(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """The same batches; to be called once."""
        return batches if self._device is None else self._read(batches)

    def end(self) -> None:
        """Have no more batches made."""
        with self._changed:
            self._over = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(PATIENCE)

    def _read(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        try:
            while True:
                made = self._next(batches)
                for say in made.doubts:
                    say()
                if made.batch is not None:
                    yield made.batch
                elif isinstance(made.error, StopIteration):
                    return
                elif made.error is not None:
                    raise made.error
        finally:
            self.end()

    def _next(self, batches: Iterator[dict[str, Tensor]]) -> _Made:
        with self._changed:
            self._work(batches)
            while not self._made:
                self._changed.wait()
            made = self._made.popleft()
            self._work(batches)
        return made

    def _work(self, batches: Iterator[dict[str, Tensor]]) -> None:
        """Have batches made, unless that is under way."""
        if self._works or self._over or len(self._made) >= AHEAD:
            return
        # A daemon: what hangs in a network shall not keep the process; `_end_all` waits for the others.
        self._works, self._thread = True, threading.Thread(target=self._make, args=(batches,), name=NAME, daemon=True)
        _READING.add(self)
        self._thread.start()

    def _make(self, batches: Iterator[dict[str, Tensor]]) -> None:
        """Make batches until there are enough, or an end comes: the thread."""
        goes_on = True
        while goes_on:
            batch, error = self._one(batches)
            with self._changed:
                self._made.append(_Made(self._doubts, batch, error))
                self._doubts = []
                self._over |= error is not None
                goes_on = self._works = not self._over and len(self._made) < AHEAD
                self._changed.notify()

    def _one(self, batches: Iterator[dict[str, Tensor]]) -> tuple[dict[str, Tensor] | None, BaseException | None]:
        """The next batch, or what came in its place."""
        try:
            return self._pinned(next(batches)), None
        except BaseException as error:
            return None, error

    def _pinned(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch where the device can copy it by itself."""
        if not torch.cuda.is_available():
            return batch
        with torch.cuda.device(self._device):  # a thread begins with the first one
            return {name: part.pin_memory() for name, part in batch.items()}


_READING: weakref.WeakSet[Ahead] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Python ends threads where they are, which a tokenizer at work does not bear."""
    for one in list(_READING):
        one.end()
