"""The order of spans of one length."""

import pytest
import torch
from oracles import svd_scores

from linscore import LinscoreError, rank
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
        ({"span": 2, "by": "first"}, "choose one of linearity"),
    ],
)
def test_rank_refuses_spans_that_were_not_scored(scored, options, message):
    with pytest.raises(LinscoreError, match=message):
        rank(scored[0], **options)
