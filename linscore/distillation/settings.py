"""What a run of `linscore distil` was begun with, kept in its folder so that no other run goes on there.

settings.json   the options, places absolute, and as "before" the losses of the untrained student
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linscore.embedded.shipped import SHIPPED
from linscore.errors import Interrupted, LinscoreError

__all__ = ["Settings", "kept_if_begun"]

SETTINGS = "settings.json"
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

    def begin(self, folder: Path, before: dict[str, float | None]) -> None:
        """Note in `folder`, which is made, these settings and what `measure` gave before the first step."""
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({**self._anywhere(), "before": before}, indent=2, allow_nan=False)
        (folder / SETTINGS).write_text(content + "\n", encoding="utf-8")

    def resumed(self, folder: Path) -> dict[str, float | None]:
        """What was measured before the first step of the run in `folder`.

        Raises:
            LinscoreError: when no run is there, it was begun with other settings, or the file is damaged.
        """
        if not folder.exists():
            raise LinscoreError(f"{folder} holds no run to go on with: leave out `resume`")
        begun, asked = _read(folder), self._anywhere()
        other = next((key for key in asked if begun[key] != asked[key]), None)
        if other is not None:
            option = f"`{other}`" if other != "student" else "the student"
            raise LinscoreError(
                f"{folder} was begun with {option} {begun[other]}, not {asked[other]}: give the same, or remove it"
            )
        return begun["before"]

    def _anywhere(self) -> dict[str, Any]:
        """The settings by names that hold in every working directory."""
        return asdict(self) | {key: _absolute(getattr(self, key)) for key in ("student", "teacher", "text")}


@contextmanager
def kept_if_begun(folder: Path, settings: Settings, before: dict[str, float | None]) -> Iterator[None]:
    """Begin a run in `folder`; after an error it is left only where there is a checkpoint to go on from."""
    settings.begin(folder, before)
    try:
        yield
    except BaseException as error:
        if not list(folder.glob("step_*")):
            shutil.rmtree(folder)
        elif isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted: go on with `resume` from the last checkpoint in {folder}") from error
        raise


def _absolute(name: str | None) -> str | None:
    """What lies on this machine as an absolute path; a Hub name, "embedded" and "-" as they are."""
    local = name is not None and name not in (*SHIPPED, "-") and Path(name).exists()
    return str(Path(name).resolve()) if name is not None and local else name


def _read(folder: Path) -> dict[str, Any]:
    """The content of the file, all keys of it."""
    try:
        begun = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        fields = Settings.__dataclass_fields__.keys() | {"before"}
        whole = begun.keys() == fields and begun["before"].keys() == FIGURES
        if not whole or not all(value is None or type(value) is float for value in begun["before"].values()):
            raise ValueError(f"not the content of {SETTINGS}")
    except (OSError, ValueError, AttributeError) as error:
        raise LinscoreError(f"{folder / SETTINGS} is damaged: remove {folder} and start again") from error
    return begun
