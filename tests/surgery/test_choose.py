"""Choosing blocks on a tiny model; the oracles leave blocks out by hand and take transformers' own loss."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from cut_models import doing_nothing
from tiny_models import VOCABULARY, tiny
from torch import Tensor

import linscore
from linscore import LinscoreError
from linscore.spans import Span, runs
from linscore.surgery.choose import choose, choose_from

DEPTH = 6
pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def model():
    return tiny("llama", num_hidden_layers=DEPTH)


def texts() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [{"input_ids": torch.randint(3, VOCABULARY, (4, 24), generator=generator)} for _ in range(4)]


@cache
def report():
    return linscore.score(model(), texts(), spans=[Span(i, i + 1) for i in range(DEPTH - 1)], spectra=False)


@torch.no_grad()
def perplexity_without(gone: list[int]) -> float:
    with doing_nothing(model(), gone):
        losses = [model()(batch["input_ids"], labels=batch["input_ids"]).loss.item() for batch in texts()]
    return math.exp(sum(losses) / len(losses))


def test_runs_are_the_longest_spans():
    assert runs([5, 2, 6, 7, 2]) == [Span(2, 2), Span(5, 7)]
    assert [str(span) for span in runs(range(3))] == ["0-2"]


@pytest.mark.parametrize("text", ["", "3-", "-3", "5-3", "a", "1,2"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(LinscoreError, match="write it like 3 or 3-5"):
        Span.parse(text)


def test_single_blocks_come_in_the_order_of_the_ranking():
    figures = {block.index: block.block_influence for block in report().blocks}
    expected = sorted(figures, key=figures.get)[:3]
    choice = choose_from(report(), 3, by="block_influence")
    assert choice.blocks == expected
    assert choice.figures == {str(index): figures[index] for index in expected}


def test_spans_do_not_overlap():
    figures = {(span.first, span.last): span.angular_distance for span in report().spans}
    best, *others = sorted(figures, key=figures.get)
    second = next(span for span in others if not set(span) & set(best))
    choice = choose_from(report(), 4, by="angular_distance", span=2)
    assert choice.blocks == [*best, *second]
    assert choice.spans == [Span(*best), Span(*second)]


@pytest.mark.slow
@pytest.mark.parametrize("span", [1, 2])
def test_perplexity_is_that_of_the_model_with_the_span_left_out(span):
    expected = {first: perplexity_without(list(range(first, first + span))) for first in range(DEPTH - span + 1)}
    choice = choose(model(), texts, span, by="perplexity", span=span)
    assert choice.blocks[0] == min(expected, key=expected.get)
    assert choice.figures[str(choice.spans[0])] == pytest.approx(min(expected.values()), rel=1e-5)
    assert choice.whole == pytest.approx(perplexity_without([]), rel=1e-5)


@pytest.mark.slow
def test_sequential_measures_again_on_what_is_left():
    gone: list[int] = []
    perplexities = []
    for _ in range(3):
        left = {i: perplexity_without([*gone, i]) for i in range(DEPTH) if i not in gone}
        gone.append(min(left, key=left.get))
        perplexities.append(min(left.values()))
    choice = choose(model(), texts, 3, by="perplexity", sequential=True)
    assert choice.blocks == gone
    assert list(choice.figures.values()) == pytest.approx(perplexities, rel=1e-5)
    assert choice.whole == pytest.approx(perplexity_without([]), rel=1e-5)
    assert choice.sequential


def test_sequential_spans_may_close_around_a_gap():
    """Spans of two of six blocks until none is left but two: some span must then be one around a gap, or beside it."""
    choice = choose(model(), texts, 4, by="delta_ratio", span=2, sequential=True)
    assert len(set(choice.blocks)) == 4
    assert sorted(index for span in choice.spans for index in span.blocks) == sorted(choice.blocks)


@pytest.mark.slow
def test_the_first_of_a_sequence_is_the_first_of_the_ranking():
    once = choose(model(), texts, 1, by="linearity_heldout")
    again = choose(model(), texts, 2, by="linearity_heldout", sequential=True)
    assert again.blocks[0] == once.blocks[0] == choose_from(report(), 1, by="linearity_heldout").blocks[0]


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (0, {}, "0 blocks"),
        (7, {}, "7 blocks are to go, but 6 were scored"),
        (3, {"span": 2}, "give a multiple of 2"),
        (3, {"span": 3}, "score with|--for spans"),
        (1, {"by": "beauty"}, "unknown metric"),
    ],
)
def test_what_cannot_be_chosen_is_refused(count, options, words):
    with pytest.raises(LinscoreError, match=words):
        choose_from(report(), count, **options)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(
    ("count", "span", "words"),
    [
        (0, 1, "0 blocks are to go, but 6 were scored"),
        (7, 1, "7 blocks are to go, but 6 were scored"),
        (3, 2, "give a multiple of 2"),
        (2, 0, "give a length from 1 to 6"),
        (7, 7, "give a length from 1 to 6"),
    ],
)
def test_what_the_model_cannot_spare_is_refused_before_a_batch_is_read(count, span, words, sequential):
    batches = iter(texts())
    with pytest.raises(LinscoreError, match=words):
        choose(model(), batches, count, by="delta_ratio", span=span, sequential=sequential)
    assert len(list(batches)) == 4


def test_several_of_one_ranking_are_those_of_the_report():
    once = choose(model(), texts, 4, by="angular_distance", span=2)
    read = choose_from(report(), 4, by="angular_distance", span=2)
    assert (once.blocks, once.figures) == (read.blocks, pytest.approx(read.figures))


def test_spans_that_leave_no_room_for_another_are_refused():
    spans = [replace(span, angular_distance=abs(span.first - 1)) for span in report().spans]  # 1-2 comes first
    with pytest.raises(LinscoreError, match="ask for fewer"):
        choose_from(replace(report(), spans=spans), 6, by="angular_distance", span=2)
