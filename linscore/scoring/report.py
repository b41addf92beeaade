"""The result of scoring: plain data, every doubt about it included. `report.json` is `Report.to_json()`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError
from linscore.files.json_file import NOT_IN_FILES, read_json
from linscore.files.whole import whole_files
from linscore.spans import Span
from linscore.statistics.figures import BlockMetrics
from linscore.statistics.moments import Moments
from linscore.statistics.moments_file import check_moments, write_moments

REPORT, MOMENTS = "report.json", "moments.safetensors"


@dataclass(frozen=True)
class ScoreWarning:
    """One doubt: its kind, one line for people, and the blocks and spans ("3-5") it concerns (None: the whole run)."""

    kind: str
    message: str
    blocks: list[int] | None = None
    spans: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class BlockReport(BlockMetrics):
    """The figures of block `index` (see `BlockMetrics`) and, where asked for, of its attention and MLP."""

    index: int
    sub_blocks: dict[str, BlockMetrics] | None = None

    @property
    def span(self) -> Span:
        """The block as a span of one."""
        return Span(self.index, self.index)


@dataclass(frozen=True, kw_only=True)
class SpanReport(BlockMetrics):
    """The figures of blocks `first` to `last` taken as one map (see `BlockMetrics`)."""

    first: int
    last: int

    @property
    def span(self) -> Span:
        """Which blocks these are."""
        return Span(self.first, self.last)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All scores of one run. `moments` is what they were computed from, by name (see `Collector`)."""

    model: str
    text: str | None  # where the tokens came from, if it was said
    tokens: int  # rows that count, non-finite ones left out
    backend: str
    precision: str
    folds: int
    dtype: str
    device: str
    depth: int  # blocks of the decoder, scored or not
    width: int
    skip_first: int
    weight_sample: list[float]  # a few weights of each block, which tell the model from others of its shape
    nonfinite_rows: int
    spread: str | None  # what the *_spread figures are
    seconds: dict[str, float]
    versions: dict[str, str]
    warnings: list[ScoreWarning]
    blocks: list[BlockReport]
    spans: list[SpanReport]  # of two blocks or more, where they were asked for
    final_state: dict[str, float | None] | None  # shape of what leaves the last block
    moments: dict[str, Moments] = field(default_factory=dict, repr=False, compare=False, metadata=NOT_IN_FILES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the promised keys first in each block and span."""
        apart = ("moments", "blocks", "spans", "warnings")
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        warnings = [asdict(warning) for warning in self.warnings]
        blocks = [{"index": block.index} | asdict(block) for block in self.blocks]
        spans = [{"first": span.first, "last": span.last} | asdict(span) for span in self.spans]
        return data | {"warnings": warnings, "blocks": blocks, "spans": spans}

    def to_json(self) -> str:
        """The text of `report.json`."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write `report.json` and `moments.safetensors`; an older result is replaced only once both are whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        report, moments = folder / REPORT, folder / MOMENTS
        with whole_files(moments, report) as (new_moments, new_report):
            write_moments(new_moments, self.moments, **self._facts())
            new_report.write_text(self.to_json(), encoding="utf-8")
        return report, moments

    @staticmethod
    def load(folder: str | Path) -> Report:
        """Read the `report.json` of a folder; its moments stay on disk (`load_moments`), but must not be damaged.

        Raises:
            LinscoreError: when the report is missing or none, or the moments beside it are damaged or of another run.
        """
        path = Path(folder)
        path = path / REPORT if path.is_dir() else path
        facts = check_moments(path.parent / MOMENTS) if (path.parent / MOMENTS).exists() else {}
        if not path.is_file():
            raise LinscoreError(
                f"no {REPORT} in {folder}: score a model into it first (`linscore score`, or Report.save)"
            )
        report = read_json(path, Report, damaged="is damaged or no linscore report: score the model again")
        if any(facts.get(name, fact) != fact for name, fact in report._facts().items()):
            raise LinscoreError(f"{path.parent / MOMENTS} is of another run than {REPORT}: score the model again")
        return report

    def _facts(self) -> dict[str, Any]:
        """What the file of the moments says about them."""
        return {"model": self.model, "tokens": self.tokens, "depth": self.depth, "skip_first": self.skip_first}
