"""Local data of benchmark tasks: rows as their authors publish them, brought into the form that the Hub gives them.

SuperGLUE's own files have booleans and words for labels, and BoolQ calls its label "answer"; the Hub has the index of
the right choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError
from linscore.text.records import read_rows

__all__ = ["task_rows"]

_YES, _NO = ("yes", "true"), ("no", "false")
_SAME_ANSWER = {
    **dict.fromkeys((*_YES, "entailment"), _YES),
    **dict.fromkeys((*_NO, "not_entailment", "contradiction"), _NO),
    "neutral": ("neither",),
}


def task_rows(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file (see `read_rows`), labelled as a task expects it.

    Args:
        path: the file.
        config: the task's configuration. Where it names a field for the label and lists the choices, labels that are
            words or booleans become the index of the choice of the same meaning, "not_entailment" that of "False".

    Raises:
        LinscoreError: the file cannot be read, or a label stands for none of the choices.
    """
    rows = read_rows(path)
    target, choices = config.get("doc_to_target"), config.get("doc_to_choice")
    if not (isinstance(target, str) and target.isidentifier() and isinstance(choices, list)):
        return rows
    answers = [str(choice).strip().lower() for choice in choices]
    labels = [row.get(target, row.get("answer")) for row in rows]
    indices = [_index(label, answers, f"{path}, row {number}") for number, label in enumerate(labels, 1)]
    return [{**row, target: index} for row, index in zip(rows, indices, strict=True)]


def _index(label: object, answers: Sequence[str], where: str) -> int:
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(answers):
        return label
    word = str(label).strip().lower()
    found = [at for at, answer in enumerate(answers) if answer in (word, *_SAME_ANSWER.get(word, ()))]
    if not found:
        raise LinscoreError(f"{where}: label {label!r} is none of the task's choices ({', '.join(answers)}): mend it")
    return found[0]
