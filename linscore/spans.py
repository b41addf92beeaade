"""What surgery acts on: spans of consecutive blocks, each one map from state to state, and parts of a block."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple, get_args

from linscore.errors import LinscoreError, whole

Part = Literal["attention", "mlp"]  # of a block
PARTS: tuple[Part, ...] = get_args(Part)
MOST = 100_000  # blocks: a slip of the finger must not fill the memory


class _Ends(NamedTuple):
    first: int
    last: int


class Span(_Ends):
    """Blocks `first` to `last`, both included; written "3" or "3-5".

    Examples:
        >>> span = linscore.Span.parse("3-5")
        >>> span.first, span.last, str(span)
        (3, 5, '3-5')
    """

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


class _What(NamedTuple):
    span: Span
    part: Part | Literal[""]


class Unit(_What):
    """What surgery acts on: a span of blocks, or the attention or MLP of one; written "3", "3-5", "3.mlp".

    Attributes:
        span: the blocks.
        part: "attention" or "mlp"; "" for whole blocks.
    """

    __slots__ = ()

    def __new__(cls, span: Span, part: Part | Literal[""] = "") -> Unit:
        """A span, or a part of a block.

        Raises:
            LinscoreError: for a part of several blocks, or one that is neither attention nor MLP.
        """
        if part not in ("", *PARTS):
            raise LinscoreError(f"`part` is {part!r}: choose {', '.join(PARTS)}, or leave it out")
        if part and span.first != span.last:
            raise LinscoreError(f"{span}.{part}: name one block, such as {span.first}.{part}")
        return super().__new__(cls, span, part)

    def __str__(self) -> str:
        return f"{self.span}.{self.part}" if self.part else str(self.span)

    @staticmethod
    def parse(text: str) -> Unit:
        """Read "3", "3-5", "3.attention" or "3.mlp".

        Raises:
            LinscoreError: for anything else.
        """
        match = None if not isinstance(text, str) else re.fullmatch(r"(.*?)(?:\.\s*([a-z]+)\s*)?", text, re.DOTALL)
        if match is None or (match[2] and match[2] not in PARTS):
            raise LinscoreError(f"{text!r} is no block and no part of one: write it like 3, 3-5, 3.attention or 3.mlp")
        return Unit(Span.parse(match[1]), match[2] or "")

    @staticmethod
    def of(what: int | str | Span | Unit) -> Unit:
        """The unit that an index, its writing, or a span means.

        Raises:
            LinscoreError: for anything else.
        """
        if isinstance(what, Unit):
            return what
        if isinstance(what, Span):
            return Unit(what)
        return Unit.parse(what) if isinstance(what, str) else Unit(Span(what, what))

    def overlaps(self, other: Unit) -> bool:
        """Whether both act on one part of a block."""
        together = self.span.first <= other.span.last and other.span.first <= self.span.last
        return together and (not self.part or not other.part or self.part == other.part)


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
