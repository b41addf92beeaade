"""Moments in a checkpoint: what is taken out goes in again, bit for bit, and nothing else does."""

import io
import math

import pytest
import torch
from oracles import states

from linscore import LinscoreError, Moments, block_metrics


def moments_with_a_sink(**options) -> Moments:
    x, y = states(400, 8)
    x[3] *= 900
    moments = Moments(8, folds=2, **options)
    moments.update(x[:200], y[:200], fold=0)
    moments.update(x[200:], y[200:], fold=1)
    return moments


def test_figures_of_a_checkpoint_are_the_same_bits_and_go_on():
    moments, file = moments_with_a_sink(), io.BytesIO()
    torch.save(moments.state_dict(), file)
    file.seek(0)
    found = Moments(8, folds=2)
    found.load_state_dict(torch.load(file, weights_only=True))
    assert found.compute() == moments.compute() == block_metrics(moments)
    x, y = states(50, 8, seed=1)
    for one in (found, moments):
        one.update(x, y)
    assert found.compute() == moments.compute()


def test_a_state_is_a_copy_on_both_ways():
    moments = moments_with_a_sink()
    before, state = moments.compute(), moments.state_dict()
    moments.update(*states(50, 8, seed=1))
    one, two = Moments(8, folds=2), Moments(8, folds=2)
    one.load_state_dict(state)
    one.update(*states(50, 8, seed=1))
    two.load_state_dict(state)
    assert two.compute() == before


def test_nothing_yet_is_a_state_too():
    moments = moments_with_a_sink()
    moments.load_state_dict(Moments(8, folds=2).state_dict())
    assert moments.pilot is None
    assert moments.rows(0) == moments.heavy_rows == 0


def test_reset_moments_are_new_ones():
    moments, new = moments_with_a_sink(), Moments(8, folds=2)
    moments.reset()
    for one in (moments, new):
        one.update(*states(100, 8, seed=2))
    assert moments.compute() == new.compute()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"d": 9}, "d is 9 there, 8 here"),
        ({"folds": 3}, "folds is 3 there, 2 here"),
        ({"precision": "exact"}, "precision is exact there, fast here"),
        ({"limits": None}, "has light.0, but no limits"),
        ({"limits": [1.0]}, "not enough values"),
        ({"light.0.n": None}, "not that of such moments"),
        ({"light.0.n": torch.tensor(1.5).double()}, "no number of rows"),
        ({"light.0.n": torch.tensor(1.0)}, "light.0.n is F32"),
        ({"light.0.sum_x": torch.zeros(9).double()}, r"light.0.sum_x is F64 \[9\]"),
        ({"light.0.sum_x": torch.full((8,), math.nan).double()}, "not finite"),
        ({"light.7.n": torch.zeros(()).double()}, "belongs to nothing"),
        ({"pilot.scale_x": torch.zeros(8)}, "pilot.scale_x"),
    ],
)
def test_a_state_of_other_moments_is_refused_and_changes_nothing(damage, message):
    moments = moments_with_a_sink()
    before, state = moments.compute(), moments.state_dict() | damage
    with pytest.raises(LinscoreError, match=message):
        moments.load_state_dict(state)
    assert moments.compute() == before


@pytest.mark.parametrize("state", [{}, {"d": 8}, None, [1]])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(LinscoreError, match="`state` is not that of such moments"):
        Moments(8).load_state_dict(state)
