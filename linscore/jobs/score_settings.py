"""What `linscore score` is asked for in words: what makes a run the run it is; which blocks and spans are meant."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace

from linscore.errors import LinscoreError
from linscore.options.place import PlaceOptions
from linscore.options.score import ScoreOptions, SelectOptions
from linscore.options.text import TextOptions
from linscore.spans import Span, parse_blocks, runs

__all__ = ["COLLECT_FOR", "Selection", "Settings"]

COLLECT_FOR = ("spans", "fuse", "fuse-output")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `linscore score` that make a run the run it is."""

    model: str
    text: str | None
    dataset: str | None
    tokens: int | None
    seq_len: int | None
    batch_size: int | None
    dtype: str
    folds: int
    skip_first: int
    precision: str
    sub_blocks: bool
    until_stable: float | None
    skip_special: bool
    blocks: str | None
    collect_for: str | None
    span_lengths: str
    encoder: bool = False
    sensitivity: int | None = None

    @staticmethod
    def of(
        model: str, text: TextOptions, place: PlaceOptions, scoring: ScoreOptions, selected: SelectOptions
    ) -> Settings:
        """Those of the command line."""
        given = asdict(text) | asdict(place) | asdict(scoring) | asdict(selected) | {"model": model}
        return Settings(**{one.name: given[one.name] for one in fields(Settings)})


class Selection:
    """Blocks and spans in words, read before a model is loaded."""

    def __init__(self, selected: SelectOptions) -> None:
        self.skip_special = selected.skip_special
        self.blocks = None if selected.blocks is None else _blocks(selected.blocks)
        self.purposes = _purposes(selected.collect_for)
        self.lengths = _lengths(selected.span_lengths)

    def among(self, depth: int, options: ScoreOptions) -> ScoreOptions:
        """The options with what these words mean in a decoder of `depth` blocks.

        Raises:
            LinscoreError: where there are no such spans.
        """
        blocks = range(depth) if self.blocks is None else self.blocks
        spans = _spans(self.lengths, blocks) if "spans" in self.purposes else []
        if "spans" in self.purposes and not spans:
            lengths, where = (", ".join(map(str, found)) for found in (self.lengths, runs(blocks)))
            raise LinscoreError(
                f"no spans of {lengths} blocks in blocks {where}: give other `span_lengths` or `blocks`"
            )
        single = [Span(index, index) for index in sorted(set(blocks))]
        fused = [span for span in [*single, *spans] if span.first > 0]
        if self.purposes & {"fuse", "fuse-output"} and not fused:
            raise LinscoreError("block 0 has no MLP before it that a map could be fused into: give other `blocks`")
        return replace(
            options,
            blocks=self.blocks,
            spans=spans,
            fuse=fused if "fuse" in self.purposes else (),
            fuse_output=fused if "fuse-output" in self.purposes else (),
        )


def _blocks(text: str) -> list[int]:
    try:
        return parse_blocks(text)
    except LinscoreError:
        raise LinscoreError(f"`blocks={text}` is no list of blocks: write it like 0-5,7") from None


def _lengths(text: str) -> list[int]:
    try:
        lengths = parse_blocks(text)
    except LinscoreError:
        lengths = []
    if not lengths or min(lengths) < 2:
        raise LinscoreError(f"`span_lengths` is {text!r}: give lengths of 2 blocks or more, like 2 or 2-4 or 2,4")
    return lengths


def _purposes(collect_for: str | None) -> set[str]:
    """What else the pass collects for: some of `COLLECT_FOR`."""
    purposes = set() if collect_for is None else {word.strip() for word in collect_for.split(",")}
    unknown = sorted(purposes - set(COLLECT_FOR))
    if unknown:
        raise LinscoreError(f"`collect_for={unknown[0]}` is unknown: give a comma list out of {', '.join(COLLECT_FOR)}")
    return purposes


def _spans(lengths: Collection[int], blocks: Collection[int]) -> list[Span]:
    """All spans of some lengths that lie within some blocks."""
    candidates = {Span(first, first + length - 1) for first in blocks for length in lengths}
    return sorted(span for span in candidates if set(span.blocks) <= set(blocks))
