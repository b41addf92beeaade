"""Datasets of the Hugging Face Hub, or local folders of the same form, streamed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from linscore.errors import LinscoreError, reason
from linscore.machine.extras import need
from linscore.text.documents import Document, Say, text_of

if TYPE_CHECKING:
    from datasets import IterableDataset

WAITS = (1.0, 4.0, 16.0)  # seconds before a shard that broke off is read again
LASTING = (ValueError, FileNotFoundError, PermissionError)  # what a file is and says stays so


def read_dataset(name: str, skipped: Say | None = None) -> Iterator[Document]:
    """The column "text" of a dataset, streamed.

    Args:
        name: `NAME`, `NAME:CONFIG` or `NAME:CONFIG:SPLIT` on the Hugging Face Hub, or a local folder of jsonl or
            parquet files in place of NAME. CONFIG may be empty; SPLIT is "train" when left out.
        skipped: takes a line for a shard that stays broken, whose other rows are left out; None: that is an error, and
            so are two such shards in a row, which are a network that is gone.

    Raises:
        LinscoreError: the dataset cannot be reached or loaded, or has no text.
    """
    rows = _open_dataset(name)
    if rows.column_names is not None and "text" not in rows.column_names:
        columns = ", ".join(rows.column_names)
        raise LinscoreError(f'dataset {name} has no column "text" but {columns}: rename one to "text" in a local copy')
    return (
        text_of(row, f"dataset {name}, row {number}") for number, row in enumerate(_streamed(rows, name, skipped), 1)
    )


def load_dataset_rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, streamed; `name` as in `read_dataset`.

    Raises:
        LinscoreError: the dataset cannot be reached or loaded.
    """
    return _streamed(_open_dataset(name), name, None)


def _open_dataset(name: str) -> Any:
    need("datasets", "`dataset`", "datasets")
    from datasets import load_dataset

    parts = name.split(":")
    path, config, split = [*parts, "", ""][:3]
    if len(parts) > 3 or not path:
        raise LinscoreError(f"dataset {name!r} is not NAME, NAME:CONFIG or NAME:CONFIG:SPLIT: write it as one of these")
    try:
        return load_dataset(path, config or None, split=split or "train", streaming=True)
    except Exception as error:  # `datasets` and the Hub client raise two dozen unrelated classes
        raise _unloadable(name, error) from error


def _streamed(rows: IterableDataset, name: str, skipped: Say | None) -> Iterator[dict[str, Any]]:
    """The rows, shard by shard, so that a shard that breaks off is gone on with without those before it."""
    broken = False
    for number in range(rows.num_shards):
        error, before = (yield from _shard(rows.shard(rows.num_shards, number))), broken
        broken = error is not None
        if error is not None and (skipped is None or before):
            raise _unloadable(name, error) from error
        if error is not None and skipped is not None:
            skipped(
                f"dataset {name}: the rest of shard {number + 1} of {rows.num_shards} is left out ({reason(error)})"
            )


def _shard(rows: Iterable[dict[str, Any]]) -> Generator[dict[str, Any], None, Exception | None]:
    """The rows of a shard, which is read anew where it broke off; returns what broke it, time after time, at one row.

    `datasets` itself asks again for bytes that do not come, but not for a file that cannot be opened or decoded.
    """
    done, waits = 0, list(WAITS)
    while True:
        more, error = yield from _up_to_error(itertools.islice(rows, done, None))
        done, waits = done + more, list(WAITS) if more else waits
        if error is None or not waits or isinstance(error, LASTING):
            return error
        time.sleep(waits.pop(0))


def _up_to_error(rows: Iterable[dict[str, Any]]) -> Generator[dict[str, Any], None, tuple[int, Exception | None]]:
    """The rows; returns how many came, and what broke them off: a connection may at any row."""
    number = 0
    try:
        for row in rows:
            number += 1
            yield row
    except Exception as error:
        return number, error
    return number, None


def _unloadable(name: str, error: Exception) -> LinscoreError:
    return LinscoreError(
        f"dataset {name} cannot be loaded ({reason(error)}): check name, config, split and the network"
    )
