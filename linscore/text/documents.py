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
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from linscore.errors import LinscoreError, LinscoreWarning
from linscore.files.regular import check_regular
from linscore.machine.extras import need
from linscore.text import compressed
from linscore.text.compressed import form_of, is_compressed, lines_of, opened, pieces_of, too_long

__all__ = ["Document", "read_documents"]

Document = str | Iterable[str]

Say = Callable[[str], None]

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")

LOOKED_AT = 256  # files of a folder, before the first is read; of a larger one each when it is met

NAMED = 3  # of the files that a folder leaves out

READ_BYTES = 1 << 20  # read from a file at a time

_RECORD = 'an object with a "text" field'

_LIST_OPENS = re.compile(r"\s*\[\s*")

_NEXT_ITEM = re.compile(r"\s*,\s*")

_NEITHER = re.compile(r"\s*[^\s\[,\]]")

_LIST_CLOSES = re.compile(r"\s*\]\s*")


def warn(line: str) -> None:
    """Say something about a text as a Python warning."""
    warnings.warn(line, LinscoreWarning, stacklevel=2)


def read_documents(path: str | Path, say: Say = warn) -> Iterator[Document]:
    """The documents of a file, of a folder, or of standard input.

    Args:
        path: `.jsonl`, `.ndjson` or `.jsonlines` (one document per line, its "text" field), `.json` (a list of strings
            or of objects with "text"), `.parquet` (its column "text"), any other file (UTF-8 text, one document), any
            of these but parquet with `.gz`, `.bz2`, `.xz` or `.zst` behind (unpacked as it is read), a folder (its
            files, recursively, in sorted order; hidden ones left out), or "-" (standard input, one document).
        say: takes a line for each doubt: what a folder holds and is left out, and text that looks like JSON lines.

    Raises:
        LinscoreError: nothing is there, nothing in it can be read as text, or parquet is to be read without pyarrow,
            zst without zstandard.
    """
    if str(path) == "-":
        stdin: Any = sys.stdin
        return iter([_decoded(getattr(stdin, "buffer", stdin), "standard input")])
    path = Path(path)
    if path.is_dir():
        return _folder_documents(path, say)
    if not path.exists():
        raise LinscoreError(f"{path} does not exist: give a text file, a folder, or - for standard input")
    check_regular(path, "write its content to a file, or give - for standard input")
    if path.stat().st_size == 0:
        raise LinscoreError(f"{path} is empty: give a file with text in it")
    _check_readers([path])
    return _file_documents(path, say)


def _folder_documents(folder: Path, say: Say) -> Iterator[Document]:
    visible = _visible_files(folder)
    _check_readers(visible)
    files = _readable(visible, say)
    if len(visible) <= LOOKED_AT:
        files = iter(list(files))  # so that it is said too of files that come after the last token wanted
    first = next(files, None)
    if first is None:
        raise LinscoreError(f"{folder} holds no readable text file: give a folder with UTF-8 text, jsonl or parquet")
    return itertools.chain.from_iterable(_file_of_folder(path, say) for path in itertools.chain([first], files))


def _check_readers(paths: Iterable[Path]) -> None:
    parquet = [path for path in paths if form_of(path) == ".parquet"]
    if any(map(is_compressed, parquet)):
        raise LinscoreError(f"{next(filter(is_compressed, parquet))} is compressed as a whole: unpack it first")
    if parquet:
        need("datasets", "parquet", "pyarrow")


def _visible_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _readable(paths: Iterable[Path], say: Say) -> Iterator[Path]:
    """Those that hold text; what is said of the others."""
    left_out = 0
    for path in paths:
        wrong = _not_readable(path)
        if wrong is None:
            yield path
        elif wrong:
            left_out += 1
            if left_out <= NAMED:
                say(f"left out: {wrong}")
            elif left_out == NAMED + 1:
                say(f"left out: {path} and maybe more files that cannot be read as text")


def _not_readable(path: Path) -> str | None:
    """Why a file cannot be read, "" for an empty one, None where it can.

    Judged by the first piece: bad bytes further on are an error, not a reason to leave out half a file.
    """
    try:
        return None if form_of(path) == ".parquet" or next(_text_pieces(path), "") else ""
    except LinscoreError as error:
        return str(error)


def _file_of_folder(path: Path, say: Say) -> Iterator[Document]:
    """Like a file by itself, except that a `.json` holding no documents (a configuration, say) is plain text."""
    if form_of(path) == ".json":
        try:
            next(_json_documents(path))
        except LinscoreError:
            return iter([_text_pieces(path)])
    return _file_documents(path, say)


def _file_documents(path: Path, say: Say) -> Iterator[Document]:
    readers: dict[str, Callable[[Path], Iterator[Document]]] = {
        **dict.fromkeys(JSON_LINES, _jsonl_documents),
        ".json": _json_documents,
        ".parquet": _parquet_documents,
    }
    reader = readers.get(form_of(path))
    return reader(path) if reader else iter([_plain_text(path, say)])


def _plain_text(path: Path, say: Say) -> Iterator[str]:
    for number, piece in enumerate(_text_pieces(path)):
        if number == 0 and _is_json_line(piece.partition("\n")[0]):
            say(f"{path} looks like JSON lines but is read as plain text, keys and braces too: name it .jsonl")
        yield piece


def _is_json_line(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _text_pieces(path: Path) -> Iterator[str]:
    with opened(path) as stream:
        yield from _decoded(stream, str(path))


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    """UTF-8 text in pieces; line ends stay as they are, a byte order mark goes."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done = 0
    for data in pieces_of(stream, name, READ_BYTES):
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
    with opened(path) as stream:
        for number, line in enumerate(lines_of(stream, str(path)), 1):
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
        if len(buffer) - position > compressed.LONGEST:
            raise too_long(str(path))
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
