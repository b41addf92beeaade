"""Figures of spans, in the report and its tables, against their stacked states."""

import json

import pytest
import torch
from oracles import heldout_scores, linear_cka, svd_scores
from span_moments import SPANS, tokens
from tiny_models import tiny

import linscore
from linscore import Report, load_moments, rank
from linscore.scoring.table import rank_table, score_table
from linscore.terminal import show

pytestmark = pytest.mark.usefixtures("one_thread")


def test_figures_of_spans_are_those_of_stacked_states(scored):
    report, h, folds = scored
    assert [str(one.span) for one in report.spans] == ["0-1", "0-2", "1-2"]
    for one in report.spans:
        x, y = h[one.first], h[one.last + 1]
        linearity, no_residual = svd_scores(x, y)
        heldout, _ = heldout_scores(x, y, folds)
        cosine = torch.cosine_similarity(x.double(), y.double()).mean().item()
        assert one.linearity == pytest.approx(linearity, abs=1e-6)
        assert one.linearity_no_residual == pytest.approx(no_residual, abs=1e-6)
        assert one.linearity_heldout == pytest.approx(heldout, abs=1e-6)
        assert one.relative_error == pytest.approx((1 - linearity) ** 0.5, abs=1e-5)
        assert one.block_influence == pytest.approx(1 - cosine, abs=1e-5)
        assert one.cka == pytest.approx(linear_cka(x, y), abs=1e-5)


def test_spans_are_saved_with_the_report_and_their_moments_beside_it(scored, tmp_path):
    report = scored[0]
    _, path = report.save(tmp_path)
    assert Report.load(tmp_path) == report
    data = json.loads(report.to_json())["spans"]
    assert [list(span)[:2] for span in data] == [["first", "last"]] * 3
    moments, _ = load_moments(path)
    assert {"span.0-2", "fuse.1-2.intermediate"} <= set(moments)
    again = linscore.block_metrics(moments["span.1-2"], after=moments["state.3"])
    assert (again.linearity, again.cka) == (report.spans[2].linearity, report.spans[2].cka)


def test_a_report_without_spans_has_an_empty_list():
    report = linscore.score(tiny("llama"), [tokens(2)])
    assert report.spans == []
    assert json.loads(report.to_json())["spans"] == []


def test_tables_show_spans_under_the_blocks(scored, capsys):
    show(score_table(scored[0]))
    lines = capsys.readouterr().out.splitlines()
    labels = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert labels == ["0", "1", "2", "0-1", "0-2", "1-2"]
    show(rank_table({one.span: one.linearity for one in rank(scored[0], by="linearity", span=3)}, "linearity"))
    assert "0-2" in capsys.readouterr().out


def test_doubts_name_the_spans_they_concern(capsys):
    report = linscore.score(tiny("llama"), [tokens(3, 8)], spans=SPANS)
    doubt = next(warning for warning in report.warnings if warning.kind == "rank_deficient")
    assert doubt.blocks == [0, 1, 2]
    assert doubt.spans == ["0-1", "0-2", "1-2"]
    show(score_table(report))
    assert "blocks 0-2 and spans 0-1, 0-2, 1-2: the states" in capsys.readouterr().out
