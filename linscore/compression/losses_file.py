"""Measured losses as a file, a line each: what a search that is gone on with, or another one, need not run again."""

from __future__ import annotations

from pathlib import Path

from linscore.compression.choices import Choice, Form
from linscore.compression.measured import Key, key
from linscore.errors import LinscoreError
from linscore.files.curve import append_line, read_curve
from linscore.spans import Unit

LOSSES = "measured.jsonl"


def read_losses(folder: Path) -> dict[Key, float]:
    """The losses by choice; none where there is no such file.

    Raises:
        LinscoreError: when it is damaged.
    """
    path = folder / LOSSES
    lines = read_curve(path) if path.exists() else []
    try:
        return {key(choice_of(line["choice"]).items()): float(line["loss"]) for line in lines}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LinscoreError(f"{path} is damaged: remove it, or start again with another `out`") from error


def add_loss(folder: Path, number: int, choice: Choice, loss: float) -> None:
    """Add a line. Raises LinscoreError when the disk is full."""
    append_line(folder / LOSSES, {"step": number, "choice": written(choice), "loss": loss})


def written(choice: Choice) -> dict[str, str]:
    """A choice for a file."""
    return {str(unit): str(form) for unit, form in choice.items()}


def choice_of(names: dict[str, str]) -> Choice:
    """A choice from a file. Raises LinscoreError for names that are none."""
    return {Unit.parse(unit): Form.parse(form) for unit, form in names.items()}
