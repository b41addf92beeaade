"""The order of spans of one length."""

import io

import pytest
import torch
from oracles import svd_scores
from rich.console import Console

from linscore import LinscoreError, rank
from linscore.scoring.ranking import ranked
from linscore.scoring.table import rank_table
from linscore.spans import Span

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("by", ["block_influence", "angular_distance", "relative_error", "linearity"])
def test_rank_orders_spans_of_one_length(scored, by):
    report, h, _ = scored

    def easiest_first(span: Span) -> float:
        x, y = h[span.first].double(), h[span.last + 1].double()
        cosine = torch.cosine_similarity(x, y)
        if by in ("linearity", "relative_error"):
            return -svd_scores(x, y)[0]
        return float((cosine.arccos() if by == "angular_distance" else 1 - cosine).mean())

    found = [one.span for one in rank(report, by=by, span=2)]
    assert found == sorted([Span(0, 1), Span(1, 2)], key=easiest_first)
    assert [one.span for one in rank(report, by=by)] == sorted((Span(i, i) for i in range(3)), key=easiest_first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": 5}, "no spans of 5 blocks.*--for spans --span-lengths 5"),
        ({"span": 0}, "length of 1"),
        ({"span": 2, "by": "first"}, "choose one of block_influence"),
    ],
)
def test_rank_refuses_spans_that_were_not_scored(scored, options, message):
    with pytest.raises(LinscoreError, match=message):
        rank(scored[0], **options)


@pytest.mark.parametrize("by", ["rows", "rank", "width", "norm_x", "effective_rank", "linearity_heldout_spread"])
def test_figures_that_say_nothing_of_the_kind_rank_nothing(scored, by):
    with pytest.raises(LinscoreError, match=f"{by} does not say .*: choose one of block_influence"):
        rank(scored[0], by=by)


def test_what_has_no_figure_in_a_report_is_refused(scored):
    with pytest.raises(LinscoreError, match="a report has no perplexity, which is measured"):
        rank(scored[0], by="perplexity")


def test_block_influence_is_the_default_and_has_a_short_name(scored):
    blocks = sorted(scored[0].blocks, key=lambda block: block.block_influence)
    assert rank(scored[0]) == rank(scored[0], by="bi") == blocks
    assert list(ranked(scored[0], "bi", 1).values()) == [block.block_influence for block in blocks]


def test_a_table_says_which_end_goes_first():
    for by, order in (("block_influence", "lowest"), ("perplexity", "lowest"), ("cka", "highest")):
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(rank_table({Span(0, 0): 0.5}, by))
        assert f"by {by}, {order} first" in console.export_text()
