"""`linscore.json`: what was done to a model, written beside its weights and read again to evaluate or distil it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from linscore.errors import LinscoreError
from linscore.spans import Span

RECORD = "linscore.json"


@dataclass(frozen=True)
class Replacement:
    """What became of one span of the original model's blocks."""

    span: str  # "3" or "3-5", see `Span`
    form: Literal["dropped", "linear", "fused"]
    block: int | None  # block of the cut model whose output stands for what left the span; None: its embeddings
    parameters: list[str] = field(default_factory=list)  # of the cut model, that stand for the span
    fit: dict[str, Any] | None = None  # how its map was fitted, with which errors
    reason: str | None = None  # why it has this form, where another was tried first

    @property
    def stands_for(self) -> int:
        """The block of the original whose output that of `block` is to match."""
        return Span.parse(self.span).last


@dataclass(frozen=True)
class Record:
    """The content of `linscore.json`."""

    operation: Literal["drop", "linearize", "fuse"]
    model: str  # Hub name or folder of the original
    replacements: list[Replacement]
    depth_before: int
    depth: int
    parameters_before: int
    parameters: int
    choice: dict[str, Any] | None = None  # how the blocks were chosen, and from which moments; None: named by hand
    distilled: dict[str, Any] | None = None  # what training did afterwards
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @staticmethod
    def load(folder: str | Path) -> Record:
        """Read the record of a saved model.

        Raises:
            LinscoreError: when there is none, or it is damaged.
        """
        path = Path(folder) / RECORD
        if not path.is_file():
            raise LinscoreError(f"no {RECORD} in {folder}: give a model that prune, linearize or fuse has saved")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Record(**{**data, "replacements": [Replacement(**one) for one in data["replacements"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise LinscoreError(f"{path} is damaged: cut the model again") from error
