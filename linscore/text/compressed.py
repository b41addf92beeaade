"""Files as they are or compressed, read as streams: what they hold is never in memory as a whole."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from linscore.errors import LinscoreError

# What reading a damaged file may raise.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)

PACKED_BYTES = 1 << 12  # of zstandard at a time: at most 128 MiB when unpacked

LONGEST = 1 << 28  # bytes of a line or an item that is to be one document


class _Zstandard(io.RawIOBase):
    """A file of zstandard frames, whose errors are those of files, also where it was cut short."""

    def __init__(self, path: Path) -> None:
        self._module = _zstandard(path)
        self._file = path.open("rb")
        self._frame: Any = None  # that is being unpacked
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._more():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    def _more(self) -> bool:
        """Unpack a little more; False at the end."""
        packed = self._packed or self._file.read(PACKED_BYTES)
        if not packed:
            if self._frame is not None:
                raise EOFError("it ends within a frame")
            return False
        if self._frame is None:
            made = self._module.ZstdDecompressor()
            self._frame = made.decompressobj() if hasattr(made, "decompressobj") else made
        try:
            self._ready = self._frame.decompress(packed)
        except self._module.ZstdError as error:
            raise OSError(str(error)) from error
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        return True


def _zstandard(path: Path) -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "zstandard"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise LinscoreError(f"{path} needs the zstandard package: pip install zstandard, or unpack it first") from error


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,  # "rb" is what all three open for
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: io.BufferedReader(_Zstandard(path)),
}


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.suffix.lower() in _OPENERS


def form_of(path: Path) -> str:
    """The suffix that says what a file holds, in lower case: that of `a.jsonl.gz` is ".jsonl"."""
    return Path(path.stem if is_compressed(path) else path.name).suffix.lower()


def opened(path: Path) -> BinaryIO:
    """The bytes that a file holds, unpacked as they are read.

    Raises:
        LinscoreError: where it cannot be opened, or what unpacks it is not installed.
    """
    try:
        stream: BinaryIO = _OPENERS.get(path.suffix.lower(), lambda plain: plain.open("rb"))(path)
    except OSError as error:
        raise LinscoreError(f"{path} cannot be opened ({error.strerror}): check its permissions") from error
    return stream


def pieces_of(stream: BinaryIO, name: str, size: int) -> Iterator[bytes]:
    """The bytes of a stream, `size` at a time.

    Raises:
        LinscoreError: where it is damaged.
    """
    while data := _checked(lambda: stream.read(size), name):
        yield data


def lines_of(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a stream, none of which is longer than `LONGEST`.

    Raises:
        LinscoreError: for a longer one, and where the stream is damaged.
    """
    while line := _checked(lambda: stream.readline(LONGEST + 1), name):
        if len(line) > LONGEST:
            raise too_long(name)
        yield line


def too_long(name: str) -> LinscoreError:
    """The error for a document that would have to be held in memory as a whole."""
    return LinscoreError(f"{name} has a record of more than {LONGEST >> 20} MiB: break it into several")


def _checked(read: Callable[[], bytes], name: str) -> bytes:
    try:
        return read()
    except DAMAGED as error:
        raise LinscoreError(f"{name} is damaged, or not what its name says ({error}): write it anew") from error
