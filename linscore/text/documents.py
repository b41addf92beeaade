"""Text from files, folders, standard input and datasets, as a stream of documents.

A document is a string, or an iterable of strings whose concatenation is the text: a file larger than memory is one
document in many pieces.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from linscore.errors import LinscoreError
from linscore.machine.extras import need

__all__ = ["Document", "read_documents"]

Document = str | Iterable[str]

READ_BYTES = 1 << 20  # read from a file at a time

_RECORD = 'an object with a "text" field'

_LIST_OPENS = re.compile(r"\s*\[\s*")

_NEXT_ITEM = re.compile(r"\s*,\s*")

_NEITHER = re.compile(r"\s*[^\s\[,\]]")

_LIST_CLOSES = re.compile(r"\s*\]\s*")


def read_documents(path: str | Path) -> Iterator[Document]:
    """The documents of a file, of a folder, or of standard input.

    Args:
        path: `.jsonl` (one document per line, its "text" field), `.json` (a list of strings or of objects with
            "text"), `.parquet` (its column "text"), any other file (UTF-8 text, one document), a folder (its files,
            recursively, in sorted order; hidden and binary ones left out), or "-" (standard input, one document).

    Raises:
        LinscoreError: nothing is there, nothing in it can be read as text, or parquet is to be read without pyarrow.
    """
    if str(path) == "-":
        stdin: Any = sys.stdin
        return iter([_decoded(getattr(stdin, "buffer", stdin), "standard input")])
    path = Path(path)
    if path.is_dir():
        return _folder_documents(path)
    if not path.exists():
        raise LinscoreError(f"{path} does not exist: give a text file, a folder, or - for standard input")
    if path.is_file() and path.stat().st_size == 0:
        raise LinscoreError(f"{path} is empty: give a file with text in it")
    _check_readers([path])
    return _file_documents(path)


def _folder_documents(folder: Path) -> Iterator[Document]:
    visible = _visible_files(folder)
    _check_readers(visible)
    files = filter(_is_readable, visible)
    first = next(files, None)
    if first is None:
        raise LinscoreError(f"{folder} holds no readable text file: give a folder with UTF-8 text, jsonl or parquet")
    return itertools.chain.from_iterable(map(_file_of_folder, itertools.chain([first], files)))


def _check_readers(paths: Iterable[Path]) -> None:
    if any(path.suffix.lower() == ".parquet" for path in paths):
        need("datasets", "parquet", "pyarrow")


def _visible_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _is_readable(path: Path) -> bool:
    """Judged by the first piece: bad bytes further on are an error, not a reason to leave out half a file."""
    if path.suffix.lower() == ".parquet":
        return True
    try:
        return bool(next(_text_pieces(path), ""))
    except LinscoreError:
        return False


def _file_of_folder(path: Path) -> Iterator[Document]:
    """Like a file by itself, except that a `.json` holding no documents (a configuration, say) is plain text."""
    if path.suffix.lower() == ".json":
        try:
            next(_json_documents(path))
        except LinscoreError:
            return iter([_text_pieces(path)])
    return _file_documents(path)


def _file_documents(path: Path) -> Iterator[Document]:
    readers: dict[str, Callable[[Path], Iterator[Document]]] = {
        ".jsonl": _jsonl_documents,
        ".json": _json_documents,
        ".parquet": _parquet_documents,
    }
    reader = readers.get(path.suffix.lower())
    return reader(path) if reader else iter([_text_pieces(path)])


def _text_pieces(path: Path) -> Iterator[str]:
    with _opened(path) as stream:
        yield from _decoded(stream, str(path))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise LinscoreError(f"{path} cannot be opened ({error.strerror}): check its permissions") from error


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    """UTF-8 text in pieces; line ends stay as they are, a byte order mark goes."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done = 0
    while data := stream.read(READ_BYTES):
        if isinstance(data, str):  # standard input replaced by a text stream
            yield data
            continue
        if done == 0 and b"\0" in data:  # UTF-16, or no text at all
            raise LinscoreError(f"{name} holds zero bytes, so it is not UTF-8 text: convert or unpack it first")
        yield _decode(decoder, data, name, final=False)
        done += len(data)
    _decode(decoder, b"", name, final=True)


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, name: str, *, final: bool) -> str:
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        raise LinscoreError(f"{name} is not UTF-8 text: convert or unpack it first") from error


def _jsonl_documents(path: Path) -> Iterator[str]:
    with _opened(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number},"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # wrong JSON, wrong UTF-8, nested too deep
                raise LinscoreError(f"{where} is not JSON: every line must be {_RECORD}") from error
            yield text_of(record, where)


def _json_documents(path: Path) -> Iterator[str]:
    for number, item in enumerate(_json_items(path), 1):
        yield text_of({"text": item} if isinstance(item, str) else item, f"{path}, item {number},")


def _json_items(path: Path) -> Iterator[object]:
    """The items of a JSON list, decoded one by one as the file is read."""
    item_at, buffer, position, expected = json.JSONDecoder().raw_decode, "", 0, _LIST_OPENS
    for piece in _text_pieces(path):
        buffer, position = buffer[position:] + piece, 0
        while before := expected.match(buffer, position):
            try:
                item, end = item_at(buffer, before.end())
            except (ValueError, RecursionError):
                break  # the item goes on in the next piece, or the error shows below
            yield item
            position, expected = end, _NEXT_ITEM
        if not before and _NEITHER.match(buffer, position):
            break  # no list: do not read the rest of a big file into the buffer
    if expected is _LIST_OPENS or not _LIST_CLOSES.fullmatch(buffer, position):
        raise LinscoreError(f"{path} is not a JSON list of texts: write one, or name it .jsonl if it has one per line")


def _parquet_documents(path: Path) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            columns = ", ".join(file.schema_arrow.names)
            raise LinscoreError(f'{path} has no column "text" but {columns}: rename the one that holds the text')
        rows = itertools.chain.from_iterable(
            batch.column(0).to_pylist() for batch in file.iter_batches(batch_size=256, columns=["text"])
        )
        for number, text in enumerate(rows, 1):
            yield text_of({"text": text}, f"{path}, row {number},")
    except LinscoreError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these two
        raise LinscoreError(f"{path} cannot be read as parquet: write the file anew or leave it out") from error


def text_of(record: object, where: str) -> str:
    text = record.get("text", 0) if isinstance(record, dict) else 0
    if text is None:
        return ""
    if not isinstance(text, str):
        raise LinscoreError(f'{where} has no "text": give {_RECORD} that is a string')
    return whole_characters(text)


def whole_characters(text: str) -> str:
    """The text without half surrogate pairs, which JSON can spell and no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
