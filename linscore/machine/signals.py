"""Ctrl-C and SIGTERM that wait until what is under way is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["held_back"]

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back(*, patient: bool = False) -> Iterator[list[int]]:
    """A signal that comes meanwhile does what it always does once the context is left; a second one does it at once.

    Signals belong to the main thread: in others nothing is held back.

    Args:
        patient: hold all of them back: launchers of several processes send some twice.

    Yields:
        The signals that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def hold(number: int, _frame: FrameType | None) -> None:
        if came and not patient:
            let_go()
            signal.raise_signal(number)
        came.append(number)

    def let_go() -> None:
        while before:
            signal.signal(*before.popitem())

    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, hold)
    try:
        yield came
    finally:
        let_go()
    if came:
        signal.raise_signal(came[0])
