"""What a loss is expected to cost, against sums over rows that are written out."""

import pytest
import torch

from linscore import LinscoreError, Moments
from linscore.statistics.affine import AffineMap
from linscore.statistics.sensitivity import expected_loss, expected_losses, second_moment


def alone(states: torch.Tensor, folds: int = 1) -> Moments:
    """The moments of one set of states, in halves."""
    moments = Moments(states.shape[1], 1, folds=folds, precision="exact")
    for fold, rows in enumerate(states.chunk(folds)):
        moments.update(rows, delta=torch.zeros(len(rows), 1), fold=fold)
    return moments


def paired(x: torch.Tensor, delta: torch.Tensor, folds: int = 1) -> Moments:
    moments = Moments(x.shape[1], folds=folds, precision="exact")
    for fold, (rows, added) in enumerate(zip(x.chunk(folds), delta.chunk(folds), strict=True)):
        moments.update(rows, delta=added, fold=fold)
    return moments


def test_a_case_worked_by_hand():
    # E[ggᵀ] of (2, 0) and (0, 4) is diag(2, 8); δ is (1, 0), (3, 2): E[δδᵀ] = [[5, 3], [3, 2]], and ½(2·5 + 8·2) = 13.
    g = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    x, delta = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    weight = second_moment(alone(g))
    assert torch.allclose(weight, torch.tensor([[2.0, 0.0], [0.0, 8.0]]).double())
    found = expected_losses(weight, paired(x, delta), alone(delta))
    assert found["drop"] == pytest.approx(13)
    # About its mean (2, 1) δ is ∓(1, 1), so ½(2 + 8) is left; two rows lie on an affine map, so nothing is.
    assert found["mean"] == pytest.approx(5)
    assert found["full"] == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    x, noise, g = (torch.randn(200, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    mixed = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    g[3] *= 1000  # a row that is summed apart
    return x + 3, x @ mixed + x.square() + noise, g @ mixed


def written_out(g: torch.Tensor, missed: torch.Tensor) -> float:
    """½ of the mean of (gᵢ·Rⱼ)² over all pairs of rows, whose expectation it is where the two are independent."""
    return float((g @ missed.T).square().mean() / 2)


def test_any_map_on_all_rows_is_the_mean_over_all_pairs_of_gradient_and_error(rows):
    x, delta, g = rows
    b, mean_x, mean = torch.full((5, 5), 0.3).double(), torch.arange(5).double(), torch.ones(5).double()
    found = expected_loss(second_moment(alone(g)), paired(x, delta), alone(delta), AffineMap(b, mean_x, mean))
    assert found == pytest.approx(written_out(g, delta - (x - mean_x) @ b - mean), rel=1e-9)


def fitted(form, x, delta, x_new):
    """What a form that is fitted on (x, δ) adds to other rows."""
    centre, of = x - x.mean(0), delta - delta.mean(0)
    if form == "drop":
        return torch.zeros_like(x_new)
    if form == "mean":
        b = torch.zeros(5, 5).double()
    elif form == "diagonal":
        b = torch.diag((centre * of).sum(0) / centre.square().sum(0))
    else:
        b = torch.linalg.lstsq(centre, of).solution
        if form == "rank 1":
            right = torch.linalg.svd(centre @ b)[2][:1]
            b = b @ right.T @ right
    return delta.mean(0) + (x_new - x.mean(0)) @ b


@pytest.mark.parametrize("form", ["drop", "mean", "diagonal", "rank 1", "full"])
def test_each_form_is_fitted_on_the_other_fold(rows, form):
    x, delta, g = rows
    found = expected_losses(second_moment(alone(g)), paired(x, delta, 2), alone(delta, 2))
    halves = list(zip(x.chunk(2), delta.chunk(2), strict=True))
    missed = [new - fitted(form, *other, x_new) for other, (x_new, new) in zip(halves[::-1], halves, strict=True)]
    assert found[form] == pytest.approx(written_out(g, torch.cat(missed)), rel=1e-9)


def test_what_is_of_other_rows_is_refused(rows):
    x, delta, g = rows
    with pytest.raises(LinscoreError, match="199 rows, its moments of 200"):
        expected_losses(second_moment(alone(g)), paired(x, delta), alone(delta[1:]))
