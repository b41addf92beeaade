"""What the moments of a run are called: "block.3", "block.3.mlp", "state.4", "span.3-5", "fuse.3-5.intermediate".

Where a sensitivity is asked for, also "delta.3", "delta.3.mlp", "gradient.3", "gradient.3.attention".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from linscore.spans import Part, Span, Unit

__all__ = ["Fused", "MomentsName"]

Fused = Literal["intermediate", "output"]  # what the MLP before a span computes last, and what it adds


@dataclass(frozen=True)
class MomentsName:
    """One name, and what the moments pair.

    Attributes:
        kind: "block" pairs what enters and leaves a block, or a part of it; "state" pairs what enters a block with
            itself; "span" is a block of several; "fuse" pairs what the MLP before a span computes with what it adds.
            "delta" (what a unit adds) and "gradient" (of the loss, at the state after a unit) are of one set of states
            each, paired with nothing: a zero.
        span: the blocks; of a state the block that it enters.
        part: of a block, or which side of the MLP before a span.
    """

    kind: Literal["block", "state", "span", "fuse", "delta", "gradient"]
    span: Span
    part: str | None = None

    def __str__(self) -> str:
        return ".".join([self.kind, str(self.span), *([] if self.part is None else [self.part])])

    @staticmethod
    def block(index: int, part: Part | None = None) -> MomentsName:
        """A block, or its attention or MLP."""
        return MomentsName("block", Span(index, index), part)

    @staticmethod
    def state(index: int) -> MomentsName:
        """What enters block `index`; what leaves the last one is that of their number."""
        return MomentsName("state", Span(index, index))

    @staticmethod
    def across(span: Span) -> MomentsName:
        """What enters the first of these blocks, and leaves the last."""
        return MomentsName("block" if span.first == span.last else "span", span)

    @staticmethod
    def of(unit: Unit) -> MomentsName:
        """What a map in the place of a unit is fitted from."""
        return MomentsName.block(unit.span.first, unit.part) if unit.part else MomentsName.across(unit.span)

    @staticmethod
    def gradient(index: int, part: Part | None = None) -> MomentsName:
        """The gradient at the state after a block, or between its attention and its MLP."""
        return MomentsName("gradient", Span(index, index), part)

    @property
    def added(self) -> MomentsName:
        """What a block, a part of it, or a span adds."""
        return MomentsName("delta", self.span, self.part)

    @staticmethod
    def fused(span: Span, form: Fused) -> MomentsName:
        """The MLP before a span against what the span adds."""
        return MomentsName("fuse", span, form)
