"""Files that others may have named or made: regular ones only, of a size that was to be expected."""

from __future__ import annotations

from pathlib import Path

from linscore.errors import LinscoreError

__all__ = ["check_regular", "read_text"]


def check_regular(path: Path, instead: str) -> None:
    """Make sure that a file can be read to its end: a pipe would be waited for, and a device may have none.

    Raises:
        LinscoreError: where `path` is no regular file, nor a link to one; says what to give `instead`.
    """
    if not path.is_file():
        raise LinscoreError(f"{path} is no {'regular ' if path.exists() else ''}file: {instead}")


def read_text(path: Path, most_bytes: int, instead: str) -> str:
    """The UTF-8 text of a regular file.

    Raises:
        LinscoreError: as `check_regular`.
        ValueError: where it is longer than `most_bytes`, or no UTF-8.
    """
    check_regular(path, instead)
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return content.decode("utf-8")
