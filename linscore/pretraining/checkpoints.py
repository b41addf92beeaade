"""Checkpoints of transformers' Trainer: which of them are whole, and which is the last good one of a run gone wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from linscore.errors import LinscoreError

__all__ = ["diverged", "newest_checkpoint"]


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
        state = json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step


_NAME = re.compile(r"checkpoint-(\d+)")
