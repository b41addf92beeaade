"""One user of a decoder at a time: the hooks by which states are read would hand them to every other user, too."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from linscore.decoder.find import Decoder
from linscore.errors import LinscoreError

__all__ = ["in_use"]


@dataclass
class _Use:
    thread: int
    scored: bool = False
    entered: int = 0


_lock = threading.Lock()
_uses: WeakKeyDictionary[nn.ModuleList, _Use] = WeakKeyDictionary()


@contextmanager
def in_use(decoder: Decoder, *, scored: bool = False) -> Iterator[None]:
    """For as long as the context lasts, no other thread uses these blocks; `scored`: no other score does, either.

    Raises:
        LinscoreError: at once, if one does.
    """
    with _lock:
        use = _uses.setdefault(decoder.blocks, _Use(threading.get_ident()))
        if use.thread != threading.get_ident() or (scored and use.scored):
            raise LinscoreError(
                f"{decoder.name} is in use by another score or thread: let that one end first, or take a copy of it"
            )
        use.entered += 1
        use.scored |= scored
    try:
        yield
    finally:
        with _lock:
            use.entered -= 1
            use.scored &= not scored
            if not use.entered:
                del _uses[decoder.blocks]
