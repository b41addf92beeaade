"""Which blocks go: the first of a ranking, or one span after the other, measured again on what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedModel

from linscore.decoder.find import Decoder, find_decoder
from linscore.errors import LinscoreError
from linscore.evaluation.perplexity import perplexity
from linscore.options.cut import BY
from linscore.options.score import ScoreOptions
from linscore.scoring.ranking import PERPLEXITY, default_by, figure_of, ranked
from linscore.scoring.report import Report
from linscore.scoring.score import score_decoder
from linscore.spans import Span, indices, runs
from linscore.surgery.drop_blocks import drop_blocks
from linscore.surgery.left_out import left_out_losses
from linscore.text.batch import Batch


class Measured(NamedTuple):
    """A figure of every span, the first to go first, and the perplexity of the whole model where that is the figure."""

    figures: dict[Span, float]
    whole: float | None = None


@dataclass(frozen=True)
class Choice:
    """Blocks that go, with what put them there.

    Attributes:
        blocks: their indices, in the order in which they were chosen.
        by: the figure that ranked them.
        figures: that figure of each span taken, in that order; perplexity is exp(loss) with the span left out, and,
            where `sequential`, those before it too.
        sequential: measured again after each span, on the model without those before it.
        whole: the perplexity with nothing left out; None for other figures.
        scored: model, text and tokens that the figures come from.

    Examples:
        >>> choice = linscore.Choice([4, 2], by="block_influence", figures={"4": 0.012, "2": 0.025})
        >>> choice.spans
        [Span(first=4, last=4), Span(first=2, last=2)]
    """

    blocks: list[int]
    by: str
    figures: dict[str, float]
    sequential: bool = False
    scored: dict[str, str | int | None] | None = None
    whole: float | None = None

    @property
    def spans(self) -> list[Span]:
        """The spans taken; one that was chosen around a gap is several."""
        return [Span.parse(part) for key in self.figures for part in key.split(",")]


def choose_from(report: Report, count: int, *, by: str | None = None, span: int = 1) -> Choice:
    """The first `count` blocks of a ranking, in spans of `span` consecutive ones that do not overlap.

    Raises:
        LinscoreError: where the report has no such figure, no such spans, or not so many of them.
    """
    by = figure_of(by or default_by(report))
    scored: dict[str, str | int | None] = {"model": report.model, "text": report.text, "tokens": report.tokens}
    taken = _first(ranked(report, by, span), count, span, by)
    return Choice(indices(taken), by, {str(key): figure for key, figure in taken.items()}, scored=scored)


def choose(
    model: PreTrainedModel,
    batches: Iterable[Batch] | Callable[[], Iterable[Batch]],
    count: int,
    *,
    by: str = BY,
    span: int = 1,
    sequential: bool = False,
) -> Choice:
    """Measure a model and choose `count` of its blocks.

    Args:
        model: a decoder of transformers.
        batches: as `score` takes them, read once for each pass; or a function that gives them anew each time.
        count: how many blocks go.
        by: what ranks blocks: a figure as `rank` takes it, or "perplexity" with the span left out.
        span: how many consecutive blocks are taken, and measured, together.
        sequential: take one span, drop it, measure what is left, and so on (paper: section 5): one pass for each.

    Raises:
        LinscoreError: as `score`, `drop` and `choose_from`.

    Examples:
        >>> choice = linscore.choose(model, batches, 2, by="block_influence")
        >>> len(choice.blocks), choice.by
        (2, 'block_influence')
    """
    return choose_blocks(find_decoder(model), batches, count, by=by, span=span, sequential=sequential)


def choose_blocks(
    decoder: Decoder,
    batches: Iterable[Batch] | Callable[[], Iterable[Batch]],
    count: int,
    *,
    by: str,
    span: int,
    sequential: bool,
) -> Choice:
    """The same for a decoder that was found already."""
    read, by = batches if callable(batches) else lambda: batches, figure_of(by)
    depth, at_once = len(decoder.blocks), span if sequential else count
    gone: list[int] = []
    figures: dict[str, float] = {}
    whole: float | None = None
    _check_length(span, depth)
    _check_count(count, span, depth, by)
    while len(gone) < count:
        left = [index for index in range(depth) if index not in gone]
        cut = drop_blocks(decoder, gone, share=True) if gone else decoder
        measured = measured_figures(cut, read(), by, span)
        whole = whole if gone else measured.whole
        for key, figure in _first(measured.figures, at_once, span, by).items():
            taken = [left[index] for index in key.blocks]
            figures[",".join(map(str, runs(taken)))] = figure
            gone += taken
    return Choice(gone, by, figures, sequential=sequential, whole=whole)


def losses_without(model: PreTrainedModel, batches: Iterable[Batch], span: int = 1) -> dict[Span | None, float]:
    """Loss in nats per token with each span of `span` consecutive blocks left out, and with none of them (None).

    Examples:
        >>> losses = linscore.losses_without(model, batches)
        >>> len(losses), losses[None] > 0  # each block, and none
        (7, True)
    """
    decoder = find_decoder(model)
    return left_out_losses(decoder, batches, _spans(len(decoder.blocks), span))


def measured_figures(decoder: Decoder, batches: Iterable[Batch], by: str, span: int) -> Measured:
    """The figure `by` of every span of `span` blocks.

    Raises:
        LinscoreError: as `score` and `rank`, or where the decoder has no such spans.
    """
    spans = _spans(len(decoder.blocks), span)
    if by == PERPLEXITY:
        losses = left_out_losses(decoder, batches, spans)
        order = sorted((loss, key) for key, loss in losses.items() if key is not None)
        return Measured({key: perplexity(loss) for loss, key in order}, perplexity(losses[None]))
    return Measured(ranked(score_decoder(decoder, batches, ScoreOptions(spans=spans)), by, span))


def _spans(depth: int, length: int) -> list[Span]:
    """All spans of `length` blocks."""
    _check_length(length, depth)
    return [Span(first, first + length - 1) for first in range(depth - length + 1)]


def _check_length(length: int, depth: int) -> None:
    if not 1 <= length <= depth:
        raise LinscoreError(f"spans of {length} blocks cannot be had of {depth}: give a length from 1 to {depth}")


def _first(figures: Mapping[Span, float], count: int, span: int, by: str) -> dict[Span, float]:
    """The first spans that do not overlap, until they make up `count` blocks."""
    _check_count(count, span, len(set(indices(figures))), by)
    taken: dict[Span, float] = {}
    for key, figure in figures.items():
        if len(taken) * span < count and not any(set(key.blocks) & set(other.blocks) for other in taken):
            taken[key] = figure
    if len(taken) * span < count:
        raise LinscoreError(f"{count} blocks cannot be had in spans of {span} that do not overlap: ask for fewer")
    return taken


def _check_count(count: int, span: int, scored: int, by: str) -> None:
    if not 1 <= count <= scored:
        raise LinscoreError(f"{count} blocks are to go, but {scored} were scored by {by}: give a number from 1 to that")
    if count % span:
        raise LinscoreError(f"{count} blocks cannot be had in spans of {span}: give a multiple of {span}")
