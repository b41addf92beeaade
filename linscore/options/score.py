"""What of a decoder is scored, and how."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral

from linscore.errors import LinscoreError, above_zero, all_of, at_least, whole
from linscore.options.field import option
from linscore.spans import Span

MOST_FOLDS = 10_000  # a slip of the finger must not fill the memory


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What of a decoder is scored, and how; the command line has the first seven, whose help says more.

    Attributes:
        folds: 1 leaves the held-out figures empty. Folds follow the text, never the batch.
        skip_first: positions at the start of each sequence that do not count (attention sinks live there).
        until_stable: stop once the spread of every held-out score was below it twice (`linscore.scoring.looks`).
        encoder: tokens may see later ones; what predicting the text costs is not measured then.
        blocks: indices of the blocks to score; all by default.
        spans: consecutive blocks scored as one map, also beyond `blocks`; a single one is taken as one of `blocks`.
        fuse: spans whose map is to go into the MLP projection before them: from its p inputs, 8·p·(p + d) bytes a fold.
        fuse_output: the same from the projection's d outputs, 16·d² bytes a fold.
        skip_tokens: token ids whose positions do not count, such as the special ones.
        backend: "triton" or "eager"; by default $LINSCORE_BACKEND, else what fits the device.

    Examples:
        >>> linscore.score(model, batches, linscore.ScoreOptions(folds=4, skip_first=1)).folds
        4
    """

    folds: int = option(2, "Cross-validation folds for held-out scores.")
    skip_first: int = option(0, "Leave out the first K positions.")
    precision: str = option("fast", "fast or exact.")
    sub_blocks: bool = option(False, "Score attention and MLP apart too.")
    until_stable: float | None = option(None, "Stop once held-out scores differ less than S between folds.", "S")
    encoder: bool = option(False, "Score an encoder: its tokens may see later ones.")
    sensitivity: int | None = option(None, "Expected loss of every block: gradients on the first N tokens.", "N")
    blocks: Collection[int] | None = None
    spans: Collection[Span] = ()
    fuse: Collection[Span] = ()
    fuse_output: Collection[Span] = ()
    skip_tokens: Collection[int] = ()
    backend: str | None = None

    def __post_init__(self) -> None:
        whole("folds", self.folds, 1, MOST_FOLDS)  # 1: no held-out scores
        whole("skip_first", self.skip_first, 0)
        at_least("sensitivity", self.sensitivity, 1)
        if self.until_stable is not None:
            above_zero("until_stable", self.until_stable)
            if self.folds == 1:
                raise LinscoreError("`until_stable` needs held-out scores, and one fold has none: give 2 `folds`")
        for name in ("blocks", "skip_tokens"):
            if getattr(self, name) is not None:
                all_of(name, getattr(self, name), Integral, "whole numbers")
        for name in ("spans", "fuse", "fuse_output"):
            all_of(name, getattr(self, name), Span, "Span")


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """Which blocks, spans and tokens are meant, in words: a model says what they are."""

    skip_special: bool = option(False, "Leave out the positions of special tokens.")
    skip_shards: bool = option(False, "Leave out shards of the dataset that stay broken, and say so.")
    blocks: str | None = option(None, "Blocks to score, such as 0-5,7 [default: all].", "LIST")
    collect_for: str | None = option(None, "Collect more moments: spans, fuse, fuse-output.", "LIST", "for")
    span_lengths: str = option("2", "Blocks in a span, such as 2-4.", "LIST")
