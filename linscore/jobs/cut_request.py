"""From what prune, linearize and fuse are asked for to the blocks that go."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import combinations

from linscore.decoder.find import Decoder
from linscore.errors import LinscoreError, at_least
from linscore.jobs.passes import Passes, windows
from linscore.models.load import Pretrained
from linscore.options.cut import BY, CutOptions
from linscore.options.text import TextOptions
from linscore.scoring.ranking import PERPLEXITY, figure_of
from linscore.scoring.report import Report
from linscore.spans import Unit
from linscore.surgery.choose import Choice, choose_blocks, choose_from
from linscore.text.source import Text


@dataclass(frozen=True)
class CutRequest:
    """Blocks by name, or so many of a ranking, and the text to measure on what the moments do not say.

    Attributes:
        cut: which blocks; a plain number N is the first N of a ranking, anything with a comma or a dash names them.
        options: of the text.
        fits: whether maps are fitted too, for which the text may be read where moments are missing.
        parts: whether attention and MLP of a block may be named.
    """

    cut: CutOptions
    options: TextOptions
    fits: bool = True
    parts: bool = True

    @property
    def text(self) -> Text:
        """The text to measure on."""
        return Text(self.options)

    @property
    def number(self) -> int | None:
        """How many blocks of a ranking; None where they are named."""
        return int(self.cut.blocks) if re.fullmatch(r"\s*\d{1,9}\s*", self.cut.blocks) else None

    def check(self) -> Report | None:
        """Look at everything that can be wrong before a model is loaded; the report of `moments`.

        Raises:
            LinscoreError: for options that do not fit each other, or moments that cannot be read.
        """
        self._check_blocks()
        self._check_text()
        if self.measures and not self.options.given:
            what = "`sequential`" if self._sequential else f"`by={PERPLEXITY}`"
            raise LinscoreError(f"{what} measures the model itself: give `text` or `dataset`")
        at_least("span", self.cut.span, 1)
        return None if self.cut.moments is None else Report.load(self.cut.moments)

    def named(self) -> list[Unit]:
        """The blocks, spans and parts of blocks that a list names.

        Raises:
            LinscoreError: if it is none, or names a block, or a part of one, twice, or parts that cannot be taken.
        """
        asked = f"`blocks={self.cut.blocks}`"
        try:
            units = [Unit.parse(part) for part in self.cut.blocks.strip().removesuffix(",").split(",")]
        except LinscoreError as error:
            more = ", or 3.mlp,5" if self.parts else ""
            raise LinscoreError(f"{asked} is no number and no list: write 3, or 2,5-7, or 5,{more}") from error
        if any(one.overlaps(other) for one, other in combinations(units, 2)):
            raise LinscoreError(f"{asked} names a block more than once: name each block once")
        if not self.parts and any(unit.part for unit in units):
            raise LinscoreError(f"{asked} names a part of a block, which only prune and linearize take: name the block")
        return units

    def choose(self, loaded: Pretrained, decoder: Decoder, report: Report | None) -> Choice:
        """The blocks of a ranking, read from the report or measured on the text."""
        assert self.number is not None
        by, span = self.by, self.cut.span
        if report is not None and not self.measures:
            return choose_from(report, self.number, by=self.cut.by, span=span)
        cut = windows(loaded, self.options.seq_len, argument="seq_len") if by == PERPLEXITY else None
        read = Passes(loaded, self.text, cut)
        chosen = choose_blocks(decoder, read, self.number, by=by, span=span, sequential=self._sequential)
        scored: dict[str, str | int | None] = {"model": loaded.name, "text": str(self.text), "tokens": read.tokens}
        return replace(chosen, scored=scored)

    def _check_blocks(self) -> None:
        cut, blocks = self.cut, self.cut.blocks
        if self.number is None:
            self.named()
            if cut.by is not None or cut.span != 1 or cut.sequential or (cut.moments is not None and not self.fits):
                unused = "`by`, `span` and `sequential`" if self.fits else "`moments`, `by`, `span` and `sequential`"
                raise LinscoreError(f"`blocks={blocks}` names the blocks: leave out {unused}, or give a number")
        elif cut.moments is None and not self.options.given:
            raise LinscoreError(
                f"`blocks={blocks}` asks for the {blocks} first of a ranking: give `moments` (from `linscore score`) "
                f"or `text`, or name block {blocks} as `blocks={blocks},`"
            )

    def _check_text(self) -> None:
        if not self.options.given:
            if self.options.tokens is not None or self.options.seq_len is not None:
                raise LinscoreError("`tokens` and `seq_len` belong to `text` or `dataset`: give one, or leave them out")
            return
        self.text.source.check_read_again()
        if not self.fits and (self.number is None or (self.cut.moments is not None and not self.measures)):
            raise LinscoreError("nothing is measured, so `text` and `dataset` are not read: leave them out")
        self.text.source.check()

    @property
    def by(self) -> str:
        """What ranks the blocks: where nobody says, what a text that is given can measure."""
        return figure_of(self.cut.by or (PERPLEXITY if self.options.given else BY))

    @property
    def _sequential(self) -> bool:
        return self.cut.sequential or (self.cut.by is None and self.options.given)

    @property
    def measures(self) -> bool:
        """Whether the ranking is measured on the model, not read from a report."""
        return self._sequential or self.by == PERPLEXITY
