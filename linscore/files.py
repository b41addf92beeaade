"""Files that are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linscore.errors import LinscoreError

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the name `path` once the context is left without an error."""
    new = path.with_name(f".{path.name}")
    yield new
    os.replace(new, path)


PUBLIC = 0o666  # of a file, before the umask, which the folder's own mode shows


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the name `path` once the context is left without an error.

    Entered before any work, it also finds out that the place cannot be written to.

    Raises:
        LinscoreError: when `path` exists, or nothing can be written there.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise LinscoreError(f"{path} exists: give `out` a folder that is not there yet")
    place = next(parent for parent in path.absolute().parents if parent.exists())  # the others come at the end
    try:
        beside = tempfile.TemporaryDirectory(dir=place, prefix=f".{path.name}.")
    except OSError as error:
        raise LinscoreError(f"cannot write to {place} ({error.strerror}): give another `out`") from error
    with beside as temporary:
        folder = Path(temporary) / "checkpoint"  # one deeper: temporary folders are closed to other users
        folder.mkdir()
        yield folder
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in filter(Path.is_file, folder.iterdir()):  # safetensors come out closed to other users
            file.chmod(PUBLIC & folder.stat().st_mode)
        folder.rename(path)


def prepare_folder(folder: str | Path) -> Path:
    """Make sure now, before hours of scoring, that results can be written to `folder`.

    Raises:
        LinscoreError: when it cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LinscoreError(f"cannot write to {folder} ({error.strerror}): give another `out`") from error
    return folder
