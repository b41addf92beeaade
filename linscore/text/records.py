"""Rows with named columns, from local files or `datasets`: labelled texts, questions of a task, preferences."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError, reason
from linscore.files.regular import check_regular
from linscore.machine.extras import need
from linscore.text.compressed import DAMAGED, form_of, is_compressed, opened
from linscore.text.hub import load_dataset_rows

__all__ = ["Row", "read_dataset_rows", "read_rows"]

Row = dict[str, Any]


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a `.jsonl`, `.json` (a list of objects), `.parquet` or `.csv` file (UTF-8, with a header).

    All but parquet may have `.gz`, `.bz2`, `.xz` or `.zst` behind.

    MultiRC as its authors publish it, questions and answers within passages, becomes one row for each answer, with
    `paragraph`, `question`, `answer` and `label`, as the Hub has it.

    Raises:
        LinscoreError: the file cannot be read, or holds no rows.
    """
    path = Path(path)
    check_regular(path, "give jsonl, json, parquet or csv")
    if form_of(path) == ".parquet":
        if is_compressed(path):
            raise LinscoreError(f"{path} is compressed as a whole: unpack it first")
        need("datasets", "parquet", "pyarrow")
    try:
        rows = _read(path)
    except (*DAMAGED, ValueError, RecursionError, csv.Error) as error:  # pyarrow's are OSErrors or ValueErrors
        raise LinscoreError(f"{path} cannot be read ({reason(error)}): give jsonl, json, parquet or csv") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise LinscoreError(f"{path} holds no rows: give one JSON object per line, or a list of objects")
    return [flat for row in rows for flat in _flattened(row)]


def read_dataset_rows(name: str) -> list[Row]:
    """All rows of a dataset `NAME`, `NAME:CONFIG` or `NAME:CONFIG:SPLIT` (see `read_dataset`).

    Raises:
        LinscoreError: the dataset cannot be reached or loaded, or is empty.
    """
    rows = list(load_dataset_rows(name))
    if not rows:
        raise LinscoreError(f"dataset {name} holds no rows: give another split")
    return rows


def _read(path: Path) -> Any:
    suffix = form_of(path)
    if suffix == ".parquet":
        from pyarrow.parquet import read_table

        return read_table(path).to_pylist()
    with io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="") as lines:
        if suffix == ".csv":
            return list(csv.DictReader(lines))
        if suffix == ".json":
            return json.load(lines)
        return [json.loads(line) for line in lines if line.strip()]


def _flattened(row: Row) -> Iterator[Row]:
    passage = row.get("passage")
    if not (isinstance(passage, dict) and isinstance(passage.get("questions"), list)):
        yield row
        return
    for question in passage["questions"]:
        for answer in question.get("answers", []):
            yield {
                "paragraph": passage.get("text"),
                "question": question.get("question"),
                "answer": answer.get("text"),
                "label": answer.get("label"),
                "idx": {"paragraph": row.get("idx"), "question": question.get("idx"), "answer": answer.get("idx")},
            }
