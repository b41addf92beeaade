"""Labelled texts from a file: one row each, a text out of one or several columns, and the class that it belongs to."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from linscore.errors import LinscoreError
from linscore.evaluation.task_data import reason

__all__ = ["LabelledTexts", "read_labelled"]


class LabelledTexts(NamedTuple):
    """Texts and their classes, in the order of the file."""

    texts: list[str]
    labels: list[str]


def read_labelled(path: str | Path, *, text_field: str = "text", label_field: str = "label") -> LabelledTexts:
    """The labelled texts of a `.jsonl`, `.json` (a list of objects), `.parquet` or `.csv` file (UTF-8, with a header).

    Args:
        path: the file.
        text_field: the column of the text, or several separated by commas, whose texts are joined by a newline.
        label_field: the column of the class: a word, an integer or a boolean, of which the spelling counts.

    Raises:
        LinscoreError: the file cannot be read, holds no rows or not these columns, or a row lacks a text or a label.
    """
    rows = _rows(Path(path))
    fields = [field.strip() for field in text_field.split(",")]
    missing = [field for field in [*fields, label_field] if field not in rows[0]]
    if missing:
        raise LinscoreError(
            f"{path} has no column {missing[0]!r} but {', '.join(map(str, rows[0]))}: give --text-field and "
            "--label-field out of these"
        )
    texts = ["\n".join(_text(row, field, f"{path}, row {n}") for field in fields) for n, row in enumerate(rows, 1)]
    return LabelledTexts(texts, [_label(row, label_field, f"{path}, row {n}") for n, row in enumerate(rows, 1)])


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise LinscoreError(f"--data {path} is no file: give jsonl, json, parquet or csv with a text and a label")
    try:
        rows = _read(path)
    except (OSError, ValueError, RecursionError, csv.Error) as error:  # pyarrow's errors derive from the first two
        raise LinscoreError(
            f"--data {path} cannot be read ({reason(error)}): give jsonl, json, parquet or csv"
        ) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise LinscoreError(f"--data {path} holds no rows: give one object with a text and a label per line")
    return rows


def _read(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from pyarrow.parquet import read_table

        return read_table(path).to_pylist()
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if suffix == ".csv":
            return list(csv.DictReader(lines))
        if suffix == ".json":
            return json.load(lines)
        return [json.loads(line) for line in lines if line.strip()]


def _text(row: dict[str, Any], field: str, where: str) -> str:
    text = row.get(field)
    if not isinstance(text, str):
        raise LinscoreError(f"{where}: its {field!r} is no text but {text!r}: mend it or leave the row out")
    # JSON can spell half a surrogate pair, which no tokenizer takes.
    return text.encode("utf-8", "replace").decode("utf-8")


def _label(row: dict[str, Any], field: str, where: str) -> str:
    label = row.get(field)
    if not isinstance(label, (str, int)) or label == "":
        raise LinscoreError(
            f"{where}: its {field!r} is {label!r}: a label is a word, an integer or a boolean; mend it or leave the "
            "row out"
        )
    return str(label)
