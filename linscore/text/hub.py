"""Datasets of the Hugging Face Hub, or local folders of the same form, streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from linscore.errors import LinscoreError, reason
from linscore.machine.extras import need
from linscore.text.documents import Document, text_of


def read_dataset(name: str) -> Iterator[Document]:
    """The column "text" of a dataset, streamed.

    Args:
        name: `NAME`, `NAME:CONFIG` or `NAME:CONFIG:SPLIT` on the Hugging Face Hub, or a local folder of jsonl or
            parquet files in place of NAME. CONFIG may be empty; SPLIT is "train" when left out.

    Raises:
        LinscoreError: the dataset cannot be reached or loaded, or has no text.
    """
    rows = _open_dataset(name)
    if rows.column_names is not None and "text" not in rows.column_names:
        columns = ", ".join(rows.column_names)
        raise LinscoreError(f'dataset {name} has no column "text" but {columns}: rename one to "text" in a local copy')
    return (text_of(row, f"dataset {name}, row {number}") for number, row in enumerate(_streamed(rows, name), 1))


def load_dataset_rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, streamed; `name` as in `read_dataset`.

    Raises:
        LinscoreError: the dataset cannot be reached or loaded.
    """
    return _streamed(_open_dataset(name), name)


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


def _streamed(rows: Iterable[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # the connection may break at any row
        raise _unloadable(name, error) from error


def _unloadable(name: str, error: Exception) -> LinscoreError:
    return LinscoreError(
        f"dataset {name} cannot be loaded ({reason(error)}): check name, config, split and the network"
    )
