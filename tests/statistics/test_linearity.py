"""`linscore.linearity`: two tensors in one call, against an SVD in float64 and scikit-learn."""

import pytest
import torch
from oracles import heldout_scores, states, svd_scores

import linscore
from linscore import LinscoreError


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 1e-3)]
)
def test_the_scores_are_those_of_an_svd(dtype, tolerance):
    x, y = (one.to(dtype) for one in states(400, 8))
    found = linscore.linearity(x, y)
    expected = svd_scores(x.double(), y.double())
    assert (found.linearity, found.linearity_no_residual) == pytest.approx(expected, abs=tolerance)
    assert (found.rows, found.width) == (400, 8)


@pytest.mark.parametrize("folds", [2, 3])
def test_rows_are_held_out_in_runs_of_their_order(folds):
    x, y = (one.double() for one in states(400, 8))
    found = linscore.linearity(x, y, folds=folds)
    runs = torch.arange(400).tensor_split(folds)
    fold_of = torch.cat([torch.full((len(run),), fold) for fold, run in enumerate(runs)])
    expected = heldout_scores(x, y, fold_of)
    assert (found.linearity_heldout, found.linearity_no_residual_heldout) == pytest.approx(expected, abs=1e-10)


def test_batches_and_sequences_are_rows():
    x, y = (one.double() for one in states(400, 8))
    assert linscore.linearity(x.view(4, 100, 8), y.view(4, 100, 8)) == linscore.linearity(x, y)


def test_one_fold_holds_nothing_out():
    assert linscore.linearity(*states(400, 8), folds=1).linearity_heldout is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(8), torch.zeros(8), r"\[\.\.\., d\]"),
        (torch.zeros(4, 8), torch.zeros(4, 7), "of one shape"),
        (torch.full((4, 2), torch.nan), torch.zeros(4, 2), "two at least"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "two at least"),
    ],
)
def test_what_cannot_be_scored_is_refused(x, y, message):
    with pytest.raises(LinscoreError, match=message):
        linscore.linearity(x, y)
