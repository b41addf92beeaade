"""Files and folders that are whole or not there, whatever ends the process that writes them.

They are written beside their place under a name of their own, so that several processes may write the same, brought to
the disk, and renamed. A process that is killed leaves such a `.part-…` behind, and what was there before; the name says
whose it is, so that the next one that writes there removes it. A disk that is full is one line (`full_disk`).
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from linscore.errors import LinscoreError
from linscore.files.full_disk import room_for
from linscore.files.parts import forget, new_part, remove_leftovers

if sys.platform != "win32":
    import fcntl

__all__ = ["check_new", "new_folder", "prepare_folder", "sync", "whole_file", "whole_files"]

PUBLIC = 0o666  # of a file, before the umask, which the mode of a new folder shows


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file to write, which takes the name `path` once the context is left without an error."""
    with whole_files(path) as (part,):
        yield part


@contextmanager
def whole_files(*paths: str | Path) -> Iterator[list[Path]]:
    """Files of one folder to write, which take the names `paths`, in this order, once all of them are whole.

    Of two processes that do so at once, all files are those of the one that came last. One that is killed between two
    names leaves the rest, whole, under the names of their parts.

    Raises:
        LinscoreError: when the disk is full.
    """
    wanted = [Path(path) for path in paths]
    parts = [new_part(path) for path in wanted]
    try:
        with room_for(wanted[0]):
            for part in parts:
                part.touch(exist_ok=False)
            mode = parts[0].stat().st_mode
            yield parts
            for part in parts:
                _finish(part, mode)
            with _alone_in(wanted[0].parent):
                _give_names(parts, wanted)
            _sync_folder(wanted[0].parent)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
            forget(part)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the name `path` once the context is left without an error.

    Entered before any work, it also finds out that the place cannot be written to.

    Raises:
        LinscoreError: when `path` exists, nothing can be written there, or the disk is full.
    """
    path = Path(path)
    check_new(path)
    place = next(parent for parent in path.absolute().parents if parent.exists())  # the others come at the end
    remove_leftovers(place, path.name)
    part = new_part(place / path.name)
    try:
        try:
            part.mkdir()
        except OSError as error:
            raise LinscoreError(f"cannot write to {place} ({error.strerror}): give another `out`") from error
        with room_for(path):
            yield part
            _finish_tree(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone_in(path.parent):
                check_new(path)  # another process may have been first
                part.rename(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        forget(part)


def check_new(path: Path) -> None:
    """Whether a folder can be made at `path`.

    Raises:
        LinscoreError: when something is there.
    """
    if path.exists() or path.is_symlink():
        raise LinscoreError(f"{path} exists: give another `out`, a folder that is not there yet")


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


def sync(path: Path) -> None:
    """Wait until what a file holds is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_names(parts: Sequence[Path], paths: Sequence[Path]) -> None:
    """All of them, also where Ctrl-C comes between two."""
    try:
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
    except KeyboardInterrupt:
        for part, path in zip(parts, paths, strict=True):
            with suppress(FileNotFoundError):
                os.replace(part, path)
        raise


def _finish(file: Path, mode: int) -> None:
    """Bring a file to the disk, as readable as any other: safetensors come out closed to other users."""
    if stat.S_IMODE(file.stat().st_mode) != mode & PUBLIC:
        file.chmod(mode & PUBLIC)
    sync(file)


def _finish_tree(root: Path) -> None:
    mode = root.stat().st_mode
    for folder, _, names in os.walk(root):
        for file in (Path(folder, name) for name in names):
            if not file.is_symlink():
                _finish(file, mode)
        _sync_folder(Path(folder))


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; not all file systems can do that."""
    with suppress(OSError):
        sync(folder)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No two processes give names in `folder` at once, where its file system knows locks."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a fork has a copy
        os.close(descriptor)
