"""How linear the blocks are along training: the scores of a series of checkpoints on the same tokens (paper: figure 2).

`dynamics.json` is `Dynamics.to_json(FOLDER)`: columns with one entry per checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from linscore.files.json_file import json_text, read_json
from linscore.scoring.block_figures import FIGURES, BlockFigures, block_figures, mean_of
from linscore.scoring.report import Report

__all__ = ["Checkpoint", "Dynamics", "ScoredCheckpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series.

    Attributes:
        step: of training, from its name; its place in the series, from 0, where the name has none.
        name: a folder, a Hub name or "embedded".
        revision: of a Hub name.
    """

    step: int
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@dataclass(frozen=True)
class ScoredCheckpoint:
    """The scores of one checkpoint.

    Attributes:
        checkpoint: which one.
        modified: when the newest file of its weights was written, in ns since 1970; None for a Hub name.
        blocks: each of `FIGURES`, one value per block (None: not defined there, see `BlockMetrics`).
        warnings: the messages of its report.
    """

    checkpoint: Checkpoint
    modified: int | None
    blocks: BlockFigures
    warnings: list[str]

    @staticmethod
    def of(checkpoint: Checkpoint, modified: int | None, report: Report) -> ScoredCheckpoint:
        """What a series keeps of a report."""
        messages = [warning.message for warning in report.warnings]
        return ScoredCheckpoint(checkpoint, modified, block_figures(report, FIGURES), messages)

    def mean(self, figure: str) -> float | None:
        """The mean of a figure over those blocks for which it is defined."""
        return mean_of(self.blocks[figure])


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """A series of checkpoints, scored on the same tokens.

    Attributes:
        scored: the checkpoints, in the order in which they were given.
        text: where the tokens came from.
        tokens: how many there are.
        token_digest: SHA-256 of their ids, in the order in which the models read them.
        vocabulary_digest: SHA-256 of the tokenizer's vocabulary.
        depth: L.
        width: d.
        settings: the options of the series.
        versions: of what the figures depend on, in the run that scored the last checkpoint.
    """

    scored: list[ScoredCheckpoint]
    text: str
    tokens: int
    token_digest: str
    vocabulary_digest: str
    depth: int
    width: int
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def steps(self) -> list[int]:
        """The step of each checkpoint."""
        return [one.checkpoint.step for one in self.scored]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: `steps`, `checkpoints`, …, `mean` and `blocks` have one entry per checkpoint."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "scored"}
        return {
            "steps": self.steps,
            "checkpoints": [one.checkpoint.name for one in self.scored],
            "revisions": [one.checkpoint.revision for one in self.scored],
            "modified": [one.modified for one in self.scored],
            "warnings": [one.warnings for one in self.scored],
            **shared,
            "mean": {figure: [one.mean(figure) for one in self.scored] for figure in FIGURES},
            "blocks": {figure: [one.blocks[figure] for one in self.scored] for figure in FIGURES},
        }

    def to_json(self, folder: str | Path | None = None) -> str:
        """The text of `dynamics.json` in `folder`, absolute paths as they lie from there; None: as typed."""
        return json_text(self.to_dict(), folder)

    @staticmethod
    def load(path: str | Path) -> Dynamics:
        """Read a `dynamics.json`.

        Raises:
            LinscoreError: when it is damaged or none.
        """
        found = read_json(path, _Columns, damaged="is damaged or no series of linscore: give another `out`")
        return Dynamics(
            scored=[found.row(number) for number in range(len(found.steps))],
            **{f.name: getattr(found, f.name) for f in fields(Dynamics) if f.name != "scored"},
        )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The content of `dynamics.json`."""

    steps: list[int]
    checkpoints: list[str]
    revisions: list[str | None]
    modified: list[int | None]
    warnings: list[list[str]]
    text: str
    tokens: int
    token_digest: str
    vocabulary_digest: str
    depth: int
    width: int
    settings: dict[str, Any]
    versions: dict[str, str]
    mean: dict[str, list[float | None]]
    blocks: dict[str, list[list[float | None]]]

    def __post_init__(self) -> None:
        if self.blocks.keys() != set(FIGURES):
            raise ValueError(f"blocks has {', '.join(self.blocks)}, not {', '.join(FIGURES)}")
        columns: list[list[Any]] = [
            self.checkpoints,
            self.revisions,
            self.modified,
            self.warnings,
            *self.blocks.values(),
        ]
        if any(len(column) != len(self.steps) for column in columns):
            raise ValueError(f"not every column has {len(self.steps)} entries, as steps has")

    def row(self, number: int) -> ScoredCheckpoint:
        """One checkpoint."""
        checkpoint = Checkpoint(self.steps[number], self.checkpoints[number], self.revisions[number])
        blocks = {figure: self.blocks[figure][number] for figure in FIGURES}
        return ScoredCheckpoint(checkpoint, self.modified[number], blocks, self.warnings[number])
