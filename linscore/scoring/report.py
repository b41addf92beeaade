"""The result of scoring: plain data, every doubt about it included. `report.json` is `Report.to_json(FOLDER)`.

It and `moments.safetensors` beside it are one result: both hold the run that wrote them, and the report a digest of the
moments. The moments take their name first; a process that is killed before the report has its own leaves it under the
name of a part (`linscore.files.parts`), where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError
from linscore.files.full_disk import FullDiskError
from linscore.files.json_file import NOT_IN_FILES, json_text, read_json
from linscore.files.parts import parts_of
from linscore.files.whole import whole_file, whole_files
from linscore.scoring.looks import Look
from linscore.spans import Span
from linscore.statistics.figures import BlockMetrics
from linscore.statistics.moments import Moments
from linscore.statistics.moments_file import check_moments, write_moments

REPORT, MOMENTS = "report.json", "moments.safetensors"
NOT_FINITE = "nonfinite_figures"  # the kind of warning with which every figure may be empty
ALWAYS = ("cosine", "block_influence", "angular_distance", "delta_ratio", "norm_x", "norm_y", "norm_delta")
DAMAGED = "is damaged or no linscore report: score the model again"


@dataclass(frozen=True)
class ScoreWarning:
    """One doubt: its kind, one line for people, and the blocks and spans ("3-5") it concerns (None: the whole run)."""

    kind: str
    message: str
    blocks: list[int] | None = None
    spans: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class BlockReport(BlockMetrics):
    """The figures of block `index` (see `BlockMetrics`) and, where asked for, of its attention and MLP; what it holds.

    Attributes:
        parameters: how many; None where they are not known, as of states that are given.
        kv_bytes: of keys and values that it keeps in a cache for each token, in the model's dtype; None: not counted.

    Examples:
        >>> block = report.blocks[3]
        >>> block.index, block.linearity == 1 - block.relative_error**2
        (3, True)
    """

    index: int
    sub_blocks: dict[str, BlockMetrics] | None = None
    parameters: int | None = None
    kv_bytes: int | None = None

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
    """All scores of one run. `moments` is what they were computed from, by name (see `Collector`).

    Examples:
        >>> report_file, moments_file = report.save("scored")
        >>> linscore.Report.load("scored").blocks[3].linearity == report.blocks[3].linearity
        True
        >>> report.to_dict()["tokens"]
        512
    """

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
    weight_sample: list[float] | None  # a few of each block, to tell models of one shape apart; None: not readable
    nonfinite_rows: int
    spread: str | None  # what the *_spread figures are
    seconds: dict[str, float]
    versions: dict[str, str]
    warnings: list[ScoreWarning]
    blocks: list[BlockReport]
    spans: list[SpanReport]  # of two blocks or more, where they were asked for
    tokens_digest: str | None = None  # SHA-256 of the token ids, in the order of the batches
    sensitivity_tokens: int | None = None  # whose gradients were taken, see `ScoreOptions.sensitivity`
    loss: float | None = None  # nats a token, on the first sequences of the text; None without a head
    curve: list[Look] = field(default_factory=list)  # held-out scores along the way; none with one fold
    stable_tokens: int | None = None  # at which no more were needed, see `ScoreOptions.until_stable`
    final_state: dict[str, float | None] | None  # shape of what leaves the last block
    run: str | None = field(default=None, compare=False)  # of its own; None: version 0.1.0
    moments_digest: str | None = field(default=None, compare=False)  # SHA-256, once they are saved
    moments: dict[str, Moments] = field(default_factory=dict, repr=False, compare=False, metadata=NOT_IN_FILES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the promised keys first in each block and span."""
        apart = {"moments", "blocks", "spans", "warnings", "curve"}
        unknown = ("run", "moments_digest", "tokens_digest", "sensitivity_tokens", "loss", "stable_tokens")
        apart |= {name for name in unknown if getattr(self, name) is None}
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        warnings = [asdict(warning) for warning in self.warnings]
        blocks = [{"index": block.index} | _collected(asdict(block)) for block in self.blocks]
        spans = [{"first": span.first, "last": span.last} | _collected(asdict(span)) for span in self.spans]
        curve = {"curve": [asdict(look) for look in self.curve]} if self.curve else {}
        return data | curve | {"warnings": warnings, "blocks": blocks, "spans": spans}

    def to_json(self, folder: str | Path | None = None) -> str:
        """The text of `report.json` in `folder`, absolute paths as they lie from there; None: as typed."""
        return json_text(self.to_dict(), folder)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame: a row for each block, a column for each figure.

        Raises:
            LinscoreError: without pandas (`pip install 'linscore[html]'`).
        """
        from linscore.machine.extras import need
        from linscore.pages.rows import datasets

        need("html", "Report.to_dataframe", "pandas")
        import pandas

        return pandas.DataFrame(datasets([self.to_dict()], {})["blocks"])

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the page of `linscore report`, or nothing where the extra `html` is not installed."""
        from linscore.machine.extras import EXTRAS, missing
        from linscore.scoring.on_page import frame_of

        return None if missing(EXTRAS["html"]) else frame_of(self)

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write `report.json` and `moments.safetensors`; an older result is replaced only once both are whole.

        Raises:
            LinscoreError: when the disk is full; the figures are kept without moments where there is room for them, and
                the message says where: beside an older result, which stays as it was, under a name of their own.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        report, moments = folder / REPORT, folder / MOMENTS
        try:
            with whole_files(moments, report) as (new_moments, new_report):
                digest = write_moments(new_moments, self.moments, **self._facts(), run=self.run)
                new_report.write_text(replace(self, moments_digest=digest).to_json(folder), encoding="utf-8")
        except FullDiskError as error:
            kept = report if not (report.exists() or moments.exists()) else folder / f"report-{self.run}.json"
            with whole_file(kept) as new:
                new.write_text(self.to_json(folder), encoding="utf-8")
            raise FullDiskError(f"{error}; the figures are kept in {kept}, without moments") from error
        return report, moments

    @staticmethod
    def load(folder: str | Path) -> Report:
        """Read the `report.json` of a folder; its moments stay on disk (`load_moments`), but must not be damaged.

        Raises:
            LinscoreError: when the report is missing or none, or the moments beside it are damaged or of another run.
        """
        path = Path(folder)
        path = path / REPORT if path.is_dir() else path
        moments = path.parent / MOMENTS
        if path.name != REPORT or not moments.exists():
            return _read(path)
        for _ in range(2):  # a process may give both their names meanwhile
            facts, digest = check_moments(moments)
            for one in [path, *parts_of(path)]:
                report = _read(one) if one.is_file() else None
                if report is not None and report._is_of(facts, digest):
                    return report
        _read(path)
        raise LinscoreError(f"{moments} is of another run than {REPORT}: score the model again")

    def _is_of(self, facts: Mapping[str, Any], digest: str | None) -> bool:
        """Whether a file of moments is the one that was saved with this report."""
        alike = all(facts.get(name, fact) == fact for name, fact in self._facts().items())
        return alike and facts.get("run") == self.run and self.moments_digest in (None, digest)

    def _facts(self) -> dict[str, Any]:
        """What the file of the moments says about them."""
        return {"model": self.model, "tokens": self.tokens, "depth": self.depth, "skip_first": self.skip_first}


def _collected(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a block, without those that take gradients where none were taken, and what is not known of it."""
    without = {"expected_loss", "expected_losses"} if figures["expected_losses"] is None else set()
    without |= {name for name in ("parameters", "kv_bytes") if figures.get(name) is None}
    parts = {name: _collected(part) for name, part in (figures.get("sub_blocks") or {}).items()}
    return {name: value for name, value in figures.items() if name not in without} | (
        {"sub_blocks": parts} if parts else {}
    )


def _read(path: Path) -> Report:
    if not path.is_file():
        folder = path.parent if path.name == REPORT else path
        raise LinscoreError(f"no {REPORT} in {folder}: score a model into it first (`linscore score`, or Report.save)")
    report = read_json(path, Report, damaged=DAMAGED)
    spans = [one.span for one in report.blocks] + [one.span for one in report.spans]
    if len(set(spans)) < len(spans) or not all(0 <= one.first <= one.last < report.depth for one in spans):
        raise LinscoreError(
            f"{path} {DAMAGED} (its blocks and spans are not those of a model of {report.depth} blocks)"
        )
    told = any(warning.kind == NOT_FINITE for warning in report.warnings)
    for place, block in enumerate(report.blocks):
        for name in () if told else ALWAYS:
            if getattr(block, name) is None:
                raise LinscoreError(f"{path} {DAMAGED} (blocks[{place}].{name} is None, not a number)")
    return report
