"""Checkpoints of transformers' Trainer: which of them are whole, and which is the last good one of a run gone wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from linscore.errors import LinscoreError
from linscore.files.json_file import read_json

__all__ = ["diverged", "newest_checkpoint"]

MOST_STATE = 1 << 30  # bytes: the state of a training lists all that was ever logged


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end; None where there is none.

    The Trainer writes the state of the training last, so where that can be read the rest is there.
    """
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return next((path for step, path in sorted(found, reverse=True) if _is_whole(path, step)), None)


def diverged(folder: Path, what: str) -> LinscoreError:
    """The error of a run in `folder` in which `what` is so; it names the last good checkpoint."""
    last = newest_checkpoint(folder)
    kept = "there is no checkpoint before it" if last is None else f"the last good checkpoint is {last}"
    return LinscoreError(f"the training diverged: {what}; {kept}: lower learning_rate, or raise warmup")


def _is_whole(path: Path, step: int) -> bool:
    try:
        state = read_json(path / TRAINER_STATE_NAME, dict[str, Any], damaged="is not whole", most_bytes=MOST_STATE)
    except LinscoreError:
        return False
    return state.get("global_step") == step


_NAME = re.compile(r"checkpoint-(\d+)")
