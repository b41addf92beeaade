import numpy as np
import pytest
import torch
from oracles import states
from sklearn.linear_model import LinearRegression

from linscore import metrics
from linscore.moments import Moments
from linscore.solve import AffineMap, Centered, diagonal_map, fit_map, solve, squared_error


def centered(x: torch.Tensor, y: torch.Tensor, precision: str = "exact") -> Centered:
    moments = Moments(x.shape[1], precision=precision)
    moments.update(x, y)
    return metrics.centered(moments, range(moments.folds))


def delta_of(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    return (y.double() - x.double()).numpy()


def test_the_map_is_scikit_learns_least_squares_of_delta_on_x():
    x, y = states(900, 30)
    fitted = fit_map(centered(x, y), precision="exact")
    oracle = LinearRegression().fit(x.double().numpy(), delta_of(x, y))
    np.testing.assert_allclose(fitted.b.numpy(), oracle.coef_.T, atol=1e-9)
    np.testing.assert_allclose(fitted(x).numpy() - x.double().numpy(), oracle.predict(x.double().numpy()), atol=1e-9)


def test_with_fewer_rows_than_features_the_map_has_minimum_norm():
    x, y = states(40, 64)
    x = x * torch.logspace(0, 2, 64)  # unequal columns: the minimum is over B itself, not over an equilibrated B
    y = x + (y - y.mean(0)) * 0.1
    fitted = fit_map(centered(x, y), precision="exact")
    oracle = LinearRegression().fit(x.double().numpy(), delta_of(x, y))
    np.testing.assert_allclose(fitted.b.numpy(), oracle.coef_.T, atol=1e-9)


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_duplicated_and_dead_features_change_nothing(precision):
    x, y = states(2000, 20)
    wide_x = torch.cat([x, x[:, :5], torch.full((2000, 3), 7.0)], 1)
    wide_y = torch.cat([y, y[:, :5], torch.full((2000, 3), 7.0)], 1)
    narrow, wide = (solve(centered(*pair, precision), precision=precision) for pair in ((x, y), (wide_x, wide_y)))
    assert wide.rank == narrow.rank == 20
    doubled = centered(x, torch.cat([y[:, :5] - x[:, :5], torch.zeros(2000, 15)], 1) + x, precision)
    expected = narrow.explained + solve(doubled, precision=precision).explained
    assert wide.explained == pytest.approx(expected, rel=1e-6)
    assert wide.b is not None
    assert torch.isfinite(wide.b).all()
    assert wide.b[25:].abs().max() == 0  # nothing is read off a feature that never changes


def test_a_feature_ten_thousand_times_larger_does_not_hide_the_others():
    x, y = states(3000, 16)
    scale = torch.logspace(-2, 2, 16, dtype=torch.float64)
    x, delta = x.double() * scale, y.double() - x.double()
    solution = solve(centered(x, x + delta), precision="exact")
    fitted = LinearRegression().fit(x.numpy(), delta.numpy()).predict(x.numpy())
    assert solution.rank == 16
    assert solution.explained == pytest.approx(((fitted - fitted.mean(0)) ** 2).sum(), rel=1e-10)


def test_an_almost_lost_direction_is_reported_by_the_cutoff_sensitivity():
    x, _ = states(2000, 8)
    x = x.double()
    x[:, 7] = x[:, 6] + 5e-7 * torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    delta = torch.zeros_like(x)
    delta[:, 0] = x[:, 7] - x[:, 6]  # all that there is to explain lies in that direction
    solution = solve(centered(x, x + 1e6 * delta), precision="fast")
    assert solution.rank in (7, 8)
    assert solution.cutoff_sensitivity > 1e-4 or solution.rank == 7


def test_error_from_moments_equals_the_error_row_by_row():
    train, test = states(800, 12, seed=0), states(500, 12, seed=0, noise=0.3)
    fitted = fit_map(centered(*train), precision="exact")
    x, y = (t.double() for t in test)
    total = (y - fitted(x)).sub(0).square().sum().item()
    assert squared_error(fitted, centered(*test)) == pytest.approx(total, rel=1e-11)


def test_the_diagonal_map_is_the_best_one_feature_at_a_time():
    x, y = states(600, 6)
    fitted = diagonal_map(centered(x, y))
    for j in range(6):
        slope, offset = np.polyfit(x[:, j].double().numpy(), delta_of(x, y)[:, j], 1)
        assert fitted.b[j, j].item() == pytest.approx(slope, abs=1e-9)
        predicted = fitted(x)[:, j].numpy() - x[:, j].double().numpy()
        np.testing.assert_allclose(predicted, slope * x[:, j].double().numpy() + offset, atol=1e-8)


def test_a_map_of_zeros_adds_the_mean_of_delta():
    fitted = AffineMap(torch.zeros(3, 3).double(), torch.ones(3).double(), torch.full((3,), 2.0).double())
    torch.testing.assert_close(fitted(torch.zeros(1, 3)), torch.full((1, 3), 2.0).double())
