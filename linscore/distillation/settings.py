"""What a run of `linscore distil` was begun with, kept in its folder so that no other run goes on there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from linscore.files.run_folder import RunFolder

__all__ = ["Begun", "Settings", "run_folder"]

FIGURES = {"loss", "hidden", "kl", "lm"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `linscore distil` that make a run the run it is."""

    student: str
    teacher: str
    text: str | None
    dataset: str | None
    steps: int
    batch_size: int
    seq_len: int | None
    learning_rate: float
    train: str
    hidden: float
    kl: float
    lm: float
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Begun(Settings):
    """What the folder of a run says."""

    before: dict[str, float | None]  # the losses of the untrained student, see `measure`

    def __post_init__(self) -> None:
        if self.before.keys() != FIGURES:
            raise ValueError(f"before has {', '.join(self.before)}, not {', '.join(sorted(FIGURES))}")


def run_folder(path: Path, settings: Settings) -> RunFolder:
    """The folder of the run that these settings make."""
    return RunFolder(path, settings, places=("student", "teacher", "text"))
