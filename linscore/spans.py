"""Spans: several consecutive blocks, taken as one map from the state entering the first to that leaving the last."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from linscore.errors import LinscoreError, whole

MOST = 100_000  # blocks: a slip of the finger must not fill the memory


class _Ends(NamedTuple):
    first: int
    last: int


class Span(_Ends):
    """Blocks `first` to `last`, both included; written "3" or "3-5"."""

    __slots__ = ()

    def __new__(cls, first: int, last: int) -> Span:
        """A span of these blocks.

        Raises:
            LinscoreError: for ends that are no whole numbers from 0 on, or in the wrong order.
        """
        whole("first", first, 0)
        whole("last", last, int(first))
        return super().__new__(cls, first, last)

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    @property
    def blocks(self) -> range:
        """The indices of its blocks."""
        return range(self.first, self.last + 1)

    @staticmethod
    def parse(text: str) -> Span:
        """Read "3" or "3-5".

        Raises:
            LinscoreError: for anything else.
        """
        match = None if not isinstance(text, str) else re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", text)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise LinscoreError(f"{text!r} is no block and no span of blocks: write it like 3 or 3-5")
        span = Span(int(match[1]), int(match[2] or match[1]))
        if span.last >= MOST:
            raise LinscoreError(f"{text.strip()}: no decoder has that many blocks")
        return span


def indices(spans: Iterable[Span]) -> list[int]:
    """The blocks of some spans, one span after the other."""
    return [index for span in spans for index in span.blocks]


def after(index: int, gone: Collection[int]) -> int:
    """What the block `index` is called once these blocks are gone; of one that goes, what the next is called."""
    return index - sum(one < index for one in gone)


def parse_blocks(text: str) -> list[int]:
    """Read a list of blocks: "0-2,7" is [0, 1, 2, 7].

    Raises:
        LinscoreError: if it is none.
    """
    return indices(map(Span.parse, text.split(",")))


def runs(blocks: Collection[int]) -> list[Span]:
    """The longest spans that these blocks make up, ascending: 2, 5, 6, 7 are 2 and 5-7."""
    spans: list[Span] = []
    for index in sorted(set(blocks)):
        if spans and spans[-1].last == index - 1:
            spans[-1] = Span(spans[-1].first, index)
        else:
            spans.append(Span(index, index))
    return spans
