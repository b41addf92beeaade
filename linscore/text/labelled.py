"""Texts with a label, and pairs of texts of which one is preferred, out of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from linscore.errors import LinscoreError
from linscore.text.documents import whole_characters
from linscore.text.records import Row
from linscore.text.source import Source

__all__ = ["LabelledTexts", "Preferences", "labelled_texts", "preferences"]


class LabelledTexts(NamedTuple):
    """Texts and their classes, in the order of the rows."""

    texts: list[str]
    labels: list[str]


class Preferences(NamedTuple):
    """Pairs of texts, the better one of each apart."""

    chosen: list[str]
    rejected: list[str]


def labelled_texts(source: Source, *, text_field: str = "text", label_field: str = "label") -> LabelledTexts:
    """The labelled texts of a source.

    Args:
        source: of the rows.
        text_field: the column of the text, or several separated by commas, whose texts are joined by a newline.
        label_field: the column of the class: a word, an integer or a boolean, of which the spelling counts.

    Raises:
        LinscoreError: the source cannot be read, it has not these columns, or a row lacks a text or a label.
    """
    rows = source.rows()
    fields = _fields(text_field)
    _check_columns(rows, [*fields, label_field], source, "`text_field` and `label_field`")
    texts = [_joined(row, fields, f"{source}, row {n}") for n, row in enumerate(rows, 1)]
    return LabelledTexts(texts, [_label(row, label_field, f"{source}, row {n}") for n, row in enumerate(rows, 1)])


def preferences(source: Source, *, chosen_field: str = "chosen", rejected_field: str = "rejected") -> Preferences:
    """The pairs of a source; the fields as `text_field` of `labelled_texts`.

    Raises:
        LinscoreError: as `labelled_texts`.
    """
    rows = source.rows()
    columns = [_fields(chosen_field), _fields(rejected_field)]
    _check_columns(rows, [*columns[0], *columns[1]], source, "`chosen_field` and `rejected_field`")
    return Preferences(
        *([_joined(row, fields, f"{source}, row {n}") for n, row in enumerate(rows, 1)] for fields in columns)
    )


def _fields(columns: str) -> list[str]:
    return [column.strip() for column in columns.split(",")]


def _check_columns(rows: Sequence[Row], fields: Sequence[str], source: Source, arguments: str) -> None:
    missing = next((field for field in fields if field not in rows[0]), None)
    if missing is not None:
        raise LinscoreError(
            f"{source} has no column {missing!r} but {', '.join(map(str, rows[0]))}: give {arguments} out of these"
        )


def _joined(row: dict[str, Any], fields: Sequence[str], where: str) -> str:
    return "\n".join(_text(row, field, where) for field in fields)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    text = row.get(field)
    if not isinstance(text, str):
        raise LinscoreError(f"{where}: its {field!r} is no text but {text!r}: mend it or leave the row out")
    return whole_characters(text)


def _label(row: dict[str, Any], field: str, where: str) -> str:
    label = row.get(field)
    if not isinstance(label, (str, int)) or label == "":
        raise LinscoreError(
            f"{where}: its {field!r} is {label!r}: a label is a word, an integer or a boolean; mend it or leave the "
            "row out"
        )
    return str(label)
