"""What lies beside the weights of a cut model, as `linscore report` shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from linscore.files.curve import read_curve
from linscore.files.json_file import read_json
from linscore.surgery.record import CURVE, RESULT, Record


@dataclass(frozen=True)
class SavedCut:
    """A record, and what a search or a distillation has left beside it.

    Attributes:
        record: what was done to the model.
        compressed: what `compress.json` holds; None where no budget was searched for.
        losses: of each step of a distillation.
    """

    record: Record
    compressed: dict[str, Any] | None
    losses: list[dict[str, Any]]

    @staticmethod
    def load(path: Path) -> SavedCut:
        """Read the folder in which the record `path` lies.

        Raises:
            LinscoreError: where something in it is damaged.
        """
        folder, search = path.parent, None
        if (folder / RESULT).is_file():
            from linscore.jobs.compress import Result  # with transformers, which other folders need not wait for

            search = asdict(read_json(folder / RESULT, Result, damaged="is damaged: compress the model again"))
        losses = read_curve(folder / CURVE) if (folder / CURVE).is_file() else []
        return SavedCut(Record.load(folder), search, losses)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"record": asdict(self.record), "compressed": self.compressed, "losses": self.losses}

    def table(self) -> RenderableType:
        """What was done, and the steps of a search."""
        if self.compressed is None:
            return Text(self.record.summary())
        from linscore.compression.table import steps_table

        return Group(steps_table(self.compressed["steps"], self.compressed["by"]), Text(self.record.summary()))
