"""Curves of a training as files: a JSON object with its `step` per line, which a run that is gone on with adds to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError, reason
from linscore.files.full_disk import room_for
from linscore.files.json_file import fitted, parse_json
from linscore.files.regular import read_text
from linscore.files.whole import whole_file

MOST_BYTES = 1 << 30  # millions of steps

__all__ = ["append_line", "read_curve", "write_curve"]


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a curve; one that a killed run has not written to its end does not count.

    Raises:
        LinscoreError: when it is damaged.
    """
    try:
        whole = read_text(path, MOST_BYTES, "give another `out`").rpartition("\n")[0]
        lines = [fitted(dict[str, Any], parse_json(line), "a line") for line in whole.splitlines()]
        for line in lines:
            fitted(int, line.get("step"), "step")
    except LinscoreError:
        raise
    except ValueError as error:
        raise LinscoreError(f"{path} is damaged: start again, with another `out` ({reason(error)})") from error
    return lines


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line at the end.

    Raises:
        LinscoreError: when the disk is full.
    """
    with room_for(path), path.open("a", encoding="utf-8") as file:
        file.write(_text(line))


def write_curve(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write these lines in place of those that are there."""
    with whole_file(path) as new:
        new.write_text("".join(map(_text, lines)), encoding="utf-8")


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
