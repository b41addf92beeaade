"""A disk that is full, in the one line that a user can act on: every library has an error of its own for it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linscore.errors import LinscoreError, reason

__all__ = ["FullDiskError", "room_for"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What safetensors and tokenizers say (both by Rust), numpy, and torch.save: the last two name no cause.
SAID = re.compile(
    r"os error (28|122|27)\b|no space left|quota exceeded|\d requested and \d+ written|inline_container|PytorchStream",
    re.IGNORECASE,
)


class FullDiskError(LinscoreError, OSError):
    """There is no room for what was to be written."""


@contextmanager
def room_for(place: Path) -> Iterator[None]:
    """For the writing of `place`.

    Raises:
        FullDiskError: in the place of whatever says that the disk, a quota or a largest size is reached.
    """
    try:
        yield
    except LinscoreError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number not in FULL and not SAID.search(str(error)):
            raise
        raise FullDiskError(f"no room for {place} ({reason(error)}): free some space, or give another `out`") from error
