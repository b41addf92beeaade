"""Checkpoints of transformers' Trainer: which of them are whole, and which is the last good one of a run gone wrong."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME

from linscore.errors import LinscoreError
from linscore.files.json_file import read_json

__all__ = ["any_checkpoint", "diverged", "keep_newest", "newest_checkpoint", "remove_damaged"]

MOST_STATE = 1 << 30  # bytes: the state of a training lists all that was ever logged
WEIGHTS = "*.safetensors"


def newest_checkpoint(folder: Path, skipped: Callable[[Path], None] | None = None) -> Path | None:
    """The newest whole checkpoint of a run; None where there is none. `skipped` is told of newer ones."""
    for step, path in _numbered(folder):
        if _is_whole(path, step):
            return path
        if skipped is not None:
            skipped(path)
    return None


def any_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or where there is none the newest of all."""
    return newest_checkpoint(folder) or next((path for _, path in _numbered(folder)), None)


def keep_newest(folder: Path, number: int | None) -> None:
    """Remove checkpoints but for so many whole ones (None: all), and what is newer than those."""
    whole = [path for step, path in _numbered(folder) if _is_whole(path, step)]
    if number is not None and len(whole) > number:
        everything = [path for _, path in _numbered(folder)]
        for path in everything[everything.index(whole[number]) :]:
            shutil.rmtree(path)


def remove_damaged(path: Path) -> None:
    """Make room for a checkpoint where one that is not whole is in its place: what the run was gone on without."""
    step = int(path.name.rpartition("-")[2])
    if path.is_dir() and not _is_whole(path, step):
        shutil.rmtree(path)


def diverged(folder: Path, what: str) -> LinscoreError:
    """The error of a run in `folder` in which `what` is so; it names the last good checkpoint."""
    last = newest_checkpoint(folder)
    kept = "there is no checkpoint before it" if last is None else f"the last good checkpoint is {last}"
    return LinscoreError(f"the training diverged: {what}; {kept}: lower learning_rate, or raise warmup")


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """All checkpoints with their steps, the newest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _is_whole(path: Path, step: int) -> bool:
    """Whether all of it has reached the disk, as far as heads and ends of its files tell."""
    try:
        state = read_json(path / TRAINER_STATE_NAME, dict[str, object], damaged="is not whole", most_bytes=MOST_STATE)
    except LinscoreError:
        return False
    torchs = (file for file in path.iterdir() if file.suffix in (".pt", ".pth"))  # archives, with a table at their end
    weights = list(path.glob(WEIGHTS))
    heads = all(_opens(file) for file in weights) and all(zipfile.is_zipfile(file) for file in torchs)
    return state.get("global_step") == step and bool(weights) and heads


def _opens(file: Path) -> bool:
    """Whether a file of safetensors has the length that its head says."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


_NAME = re.compile(r"checkpoint-(\d+)")
