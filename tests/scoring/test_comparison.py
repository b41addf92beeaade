"""Differences of two models, worked by hand."""

import json
from dataclasses import replace

import pytest

from linscore import LinscoreError, Report
from linscore.scoring.comparison import compare, to_json

SCORE, SPREAD = "linearity_heldout", "linearity_heldout_spread"


def of(report: Report, values: list[float], spread: float | None = 0.02, folds: int = 4, name: str = "m") -> Report:
    blocks = [
        replace(report.blocks[0], index=index, **{SCORE: value, SPREAD: spread}) for index, value in enumerate(values)
    ]
    return replace(report, blocks=blocks, depth=len(values), folds=folds, model=name)


def test_an_error_of_folds_is_their_deviation_over_the_root_of_their_number(report):
    (found,) = compare([[of(report, [0.5, 0.6])], [of(report, [0.51, 0.7])]], [SCORE])
    assert found.spread == "folds"
    # 0.02/√4 each, so √2·0.01 of the difference; twice that is .028
    assert [one.error for one in found.blocks] == pytest.approx([0.0141421, 0.0141421], rel=1e-5)
    assert [one.difference for one in found.blocks] == pytest.approx([0.01, 0.1])
    assert found.exceeding == [1]


def test_of_two_folds_the_spread_is_a_difference(report):
    first, other = (of(report, [value], folds=2) for value in (0.5, 0.6))
    (found,) = compare([[first], [other]], [SCORE])
    # two values .02 apart: deviation .02/√2, error of their mean .01, of the difference √2·.01
    assert found.blocks[0].error == pytest.approx(0.0141421, rel=1e-5)


def test_seeds_give_the_error_where_there_are_several(report):
    groups = [[of(report, [value]) for value in values] for values in ((0.4, 0.5, 0.6), (0.7, 0.8, 0.9))]
    (found,) = compare(groups, [SCORE])
    assert found.spread == "seeds"
    # deviation .1, error .1/√3 each
    assert found.blocks[0].error == pytest.approx(0.1 * (2 / 3) ** 0.5)
    assert found.blocks[0].exceeds


def test_models_of_different_depth_are_compared_at_the_same_share_of_it(report):
    (found,) = compare([[of(report, [0.0, 0.0, 0.0])], [of(report, [0.1, 0.2, 0.4, 0.8])]], [SCORE])
    assert [one.other for one in found.blocks] == pytest.approx([0.1, 0.3, 0.8])
    (single,) = compare([[of(report, [0.5])], [of(report, [0.1, 0.2, 0.4])]], [SCORE])
    assert [one.other for one in single.blocks] == pytest.approx([0.1])


def test_without_a_spread_nothing_is_said_to_exceed_it(report):
    (found,) = compare([[of(report, [0.1], None)], [of(report, [0.9], None)]], [SCORE])
    assert found.spread is None
    assert found.blocks[0].exceeds is None
    assert json.loads(to_json([found]))[0]["exceeding"] == []


def test_what_cannot_be_compared_is_said(report):
    with pytest.raises(LinscoreError, match="there is one model: give two or more"):
        compare([[report]])
    with pytest.raises(LinscoreError, match="are no seeds of one model: depths differ"):
        compare([[of(report, [0.1]), of(report, [0.1, 0.2])], [report]])


def test_compare_prints_differences(run, full, tmp_path):
    full.save(tmp_path / "a")
    code, out, _ = run("compare", tmp_path / "a", tmp_path / "a")
    assert code == 0
    assert out.count("more than twice that apart nowhere") == 2
    code, out, _ = run("compare", tmp_path / "a", tmp_path / "a", "--figure", "delta_ratio", "--json")
    assert [one["difference"] for one in json.loads(out)[0]["blocks"]] == [0.0, 0.0, 0.0]
    code, _, err = run("compare", tmp_path / "a", tmp_path / "a", "--figure", "nothing")
    assert code == 2
    assert "--figure nothing is unknown: choose one of linearity" in err
