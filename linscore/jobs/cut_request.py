"""From the options of prune, linearize and fuse to the blocks that go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from linscore.errors import LinscoreError
from linscore.models.load import Pretrained
from linscore.progress import watched
from linscore.scoring.ranking import PERPLEXITY
from linscore.scoring.report import Report
from linscore.spans import Span
from linscore.surgery.choose import BY, Choice, choose, choose_from
from linscore.text.source import Text


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asks for: blocks by name, or so many of a ranking.

    Attributes:
        blocks: a plain number N for the first N of a ranking; anything with a comma or a dash names the blocks.
        moments: folder of `linscore score`, which ranks the blocks and holds what maps are fitted from.
        by: the figure that ranks, "linearity_heldout" by default.
        span: how many consecutive blocks are ranked and taken together.
        sequential: measure again after each span.
        text: file or folder to measure on, for what is not in `moments`; `dataset`: a name of `datasets` instead.
        tokens: how many of them at most.
        seq_len: tokens in a sequence, by default the model's context, 2,048 at most.
        fits: whether maps are fitted too, for which the text may be read where moments are missing.
    """

    blocks: str
    option: str = "--drop"
    moments: str | None = None
    by: str | None = None
    span: int = 1
    sequential: bool = False
    text: str | None = None
    dataset: str | None = None
    tokens: int | None = None
    seq_len: int | None = None
    fits: bool = True

    @property
    def source(self) -> Text:
        """The text to measure on."""
        return Text(self.text, self.dataset, self.tokens)

    @property
    def number(self) -> int | None:
        """How many blocks of a ranking; None where they are named."""
        return int(self.blocks) if re.fullmatch(r"\s*\d+\s*", self.blocks) else None

    @property
    def has_text(self) -> bool:
        """Whether there is something to measure on."""
        return self.text is not None or self.dataset is not None

    def check(self) -> Report | None:
        """Look at everything that can be wrong before a model is loaded; the report of `moments`.

        Raises:
            LinscoreError: for options that do not fit each other, or moments that cannot be read.
        """
        ranks = self.by is not None or self.span != 1 or self.sequential
        if self.number is None:
            self.named()
            if ranks or (self.moments is not None and not self.fits):
                unused = "--by, --span and --sequential" if self.fits else "--moments, --by, --span and --sequential"
                raise LinscoreError(
                    f"{self.option} {self.blocks} names the blocks: leave out {unused}, or give a number"
                )
        elif self.moments is None and not self.has_text:
            raise LinscoreError(
                f"{self.option} {self.blocks} asks for the {self.blocks} first of a ranking: give --moments DIR (from "
                f"`linscore score`) or --text, or name block {self.blocks} as {self.option} {self.blocks},"
            )
        self._check_text()
        if self._measures and not self.has_text:
            what = "--sequential" if self.sequential else f"--by {PERPLEXITY}"
            raise LinscoreError(f"{what} measures the model itself: give --text or --dataset")
        if self.span < 1:
            raise LinscoreError(f"--span is {self.span}: give the number of consecutive blocks, 1 or more")
        return None if self.moments is None else Report.load(self.moments)

    def named(self) -> list[Span]:
        """The blocks and spans that a list names.

        Raises:
            LinscoreError: if it is none, or names a block twice.
        """
        try:
            spans = [Span.parse(part) for part in self.blocks.strip().removesuffix(",").split(",")]
        except LinscoreError as error:
            form = f"{self.option} {self.blocks!r} is no number and no list: write 3, or 2,5-7, or 5,"
            raise LinscoreError(form) from error
        blocks = [index for span in spans for index in span.blocks]
        if len(set(blocks)) < len(blocks):
            raise LinscoreError(f"{self.option} {self.blocks} names a block more than once: name each block once")
        return spans

    def choose(self, loaded: Pretrained, report: Report | None) -> Choice:
        """The blocks of a ranking, read from the report or measured on the text."""
        assert self.number is not None
        by = self.by or BY
        if report is not None and not self._measures:
            return choose_from(report, self.number, by=by, span=self.span)
        passes: list[int] = []
        options: dict[str, Any] = {"by": by, "span": self.span, "sequential": self.sequential}
        chosen = choose(loaded.model, _counted(self.batches(loaded), passes), self.number, **options)
        scored: dict[str, str | int | None] = {"model": loaded.name, "text": str(self.source), "tokens": passes[-1]}
        return replace(chosen, scored=scored)

    def batches(self, loaded: Pretrained) -> Callable[[], Iterator[dict[str, Tensor]]]:
        """The text as batches of tokens, from the start at each call, with a progress bar."""
        total = self.source.expected_tokens(loaded.tokenizer)
        return lambda: watched(self.source.batches(loaded, seq_len=self.seq_len), total, "measuring")

    def _check_text(self) -> None:
        if not self.has_text:
            if self.tokens is not None or self.seq_len is not None:
                raise LinscoreError("--tokens and --seq-len belong to --text or --dataset: give one, or leave them out")
            return
        if self.text == "-":
            raise LinscoreError("--text - can be read only once: give a file")
        if not self.fits and (self.number is None or (self.moments is not None and not self._measures)):
            raise LinscoreError("nothing is measured, so --text and --dataset are not read: leave them out")
        self.source.check()

    @property
    def _measures(self) -> bool:
        return self.sequential or self.by == PERPLEXITY


def _counted(
    read: Callable[[], Iterator[dict[str, Tensor]]], passes: list[int]
) -> Callable[[], Iterator[dict[str, Tensor]]]:
    """The same passes; `passes` takes the number of tokens of each."""

    def count() -> Iterator[dict[str, Tensor]]:
        passes.append(0)
        for batch in read():
            passes[-1] += batch["input_ids"].numel()
            yield batch

    return count
