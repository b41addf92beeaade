"""One process at a time: who works on a folder says so in a file there, by a lock that ends with the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from linscore.errors import LinscoreError
from linscore.files.whole import prepare_folder

if sys.platform != "win32":
    import fcntl

__all__ = ["LOCK", "Lock", "alone_in"]

LOCK = ".lock"


class Lock:
    """Of the folder `path`, from `take` to `release`. A process that was killed holds nobody up, whatever it left.

    On Windows, and where a file system knows no locks, nobody is held up at all.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Keep other processes off the folder, which is there.

        Raises:
            LinscoreError: when one works on it, with its number.
        """
        while self._file is None:
            file = (self._folder / LOCK).open("a+", encoding="utf-8")
            if not _locked(file):
                file.seek(0)
                number = file.read(20).strip()
                file.close()
                who = f"another process ({number})" if number else "another process"
                raise LinscoreError(f"{who} works on {self._folder}: wait until it has ended, or give another `out`")
            if self._is_ours(file):
                self._file = file
            else:  # it was removed by the one that held it
                file.close()
        with suppress(OSError):  # a full disk has room for the name alone
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()

    def release(self) -> None:
        """Let others work there again; nothing where it is not held."""
        if self._file is None:
            return
        if self._is_ours(self._file):
            (self._folder / LOCK).unlink(missing_ok=True)
        if sys.platform != "win32":
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)  # closing is not enough where a fork has a copy
        with suppress(OSError):
            self._file.close()
        self._file = None

    def _is_ours(self, file: IO[str]) -> bool:
        """Whether the name in the folder is still that of the open file."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), (self._folder / LOCK).stat())
        except FileNotFoundError:
            return False


@contextmanager
def alone_in(folder: str | Path) -> Iterator[Path]:
    """A folder to write to, made where it is missing, on which no other process works meanwhile.

    Where nothing came to be written, what was made goes again.

    Raises:
        LinscoreError: when it cannot be made or written to, or a process works there already.
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = Lock(folder)
    try:
        prepare_folder(folder)
        lock.take()
        yield folder
    finally:
        lock.release()
        for path in missing:
            with suppress(OSError):  # it holds something
                path.rmdir()


def _locked(file: IO[str]) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks here
            pass
    return True
