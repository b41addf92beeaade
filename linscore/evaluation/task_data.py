"""Local data of benchmark tasks: rows as their authors publish them, brought into the form that the Hub gives them.

SuperGLUE's own files have booleans and words for labels, and BoolQ calls its label "answer"; the Hub has the index of
the right choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError

__all__ = ["reason", "task_rows"]

_YES, _NO = ("yes", "true"), ("no", "false")
_SAME_ANSWER = {
    **dict.fromkeys((*_YES, "entailment"), _YES),
    **dict.fromkeys((*_NO, "not_entailment", "contradiction"), _NO),
    "neutral": ("neither",),
}


def task_rows(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a `.jsonl`, `.json` (a list of objects) or `.parquet` file, labelled as a task expects it.

    Args:
        path: the file.
        config: the task's configuration. Where it names a field for the label and lists the choices, labels that are
            words or booleans become the index of the choice of the same meaning, "not_entailment" that of "False".

    Raises:
        LinscoreError: the file cannot be read, or a label stands for none of the choices.
    """
    rows = _rows(path)
    target, choices = config.get("doc_to_target"), config.get("doc_to_choice")
    if not (isinstance(target, str) and target.isidentifier() and isinstance(choices, list)):
        return rows
    answers = [str(choice).strip().lower() for choice in choices]
    labels = [row.get(target, row.get("answer")) for row in rows]
    indices = [_index(label, answers, f"{path}, row {number}") for number, label in enumerate(labels, 1)]
    return [{**row, target: index} for row, index in zip(rows, indices, strict=True)]


def reason(error: Exception) -> str:
    """The message of a foreign error in one line of moderate length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow.parquet import read_table

            rows = read_table(path).to_pylist()
        elif path.suffix.lower() == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        else:
            with path.open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these two
        raise LinscoreError(f"--task-data {path} cannot be read ({reason(error)}): give jsonl or parquet") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise LinscoreError(f"--task-data {path} holds no rows: give one JSON object per line, or a list of objects")
    return rows


def _index(label: object, answers: Sequence[str], where: str) -> int:
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(answers):
        return label
    word = str(label).strip().lower()
    found = [at for at, answer in enumerate(answers) if answer in (word, *_SAME_ANSWER.get(word, ()))]
    if not found:
        raise LinscoreError(f"{where}: label {label!r} is none of the task's choices ({', '.join(answers)}): mend it")
    return found[0]
