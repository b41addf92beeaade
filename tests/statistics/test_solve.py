import numpy as np
import pytest
import torch
from oracles import states
from sklearn.linear_model import LinearRegression

from linscore.statistics import figures as metrics
from linscore.statistics.affine import AffineMap, diagonal_map, fit_map, squared_error
from linscore.statistics.centered import Centered
from linscore.statistics.moments import Moments
from linscore.statistics.solve import solve


def centered(x: torch.Tensor, y: torch.Tensor, precision: str = "exact") -> Centered:
    moments = Moments(x.shape[1], precision=precision)
    moments.update(x, y)
    return metrics.centered(moments, range(moments.folds))


def narrower(x: torch.Tensor, y: torch.Tensor, e: int, *, intercept: bool) -> tuple[Centered, np.ndarray, np.ndarray]:
    """The moments of x and the first `e` features of δ, and both in float64."""
    delta = (y - x)[:, :e]
    moments = Moments(x.shape[1], e, precision="exact")
    moments.update(x, delta=delta)
    return metrics.centered(moments, [0], intercept=intercept), x.double().numpy(), delta.double().numpy()


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


@pytest.mark.parametrize("e", [1, 7, 30])
def test_a_map_to_a_narrower_delta_is_numpys_least_squares(e):
    moments, x, delta = narrower(*states(900, 30), e, intercept=True)
    fitted = fit_map(moments, precision="exact")
    oracle = np.linalg.lstsq(np.column_stack([x, np.ones(900)]), delta, rcond=None)[0]
    np.testing.assert_allclose(fitted.b.numpy(), oracle[:-1], atol=1e-9)
    np.testing.assert_allclose((fitted.mean_delta - fitted.mean_x @ fitted.b).numpy(), oracle[-1], atol=1e-9)
    predicted = x @ oracle[:-1] + oracle[-1]
    expected = x + np.pad(predicted, ((0, 0), (0, 30 - e)))
    np.testing.assert_allclose(fitted(torch.from_numpy(x)).numpy(), expected, atol=1e-8)
    assert squared_error(fitted, moments) == pytest.approx(((delta - predicted) ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("e", [1, 7, 30])
def test_without_centring_the_map_is_numpys_least_squares_without_an_intercept(e, heavy):
    x, y = states(900, 30)
    x, y = x + 3, y + 1
    if heavy:
        x[17] *= 500
        y[17] += x[17]
    raw, x, delta = narrower(x, y, e, intercept=False)
    for got, expected in ((raw.c_xx, x.T @ x), (raw.c_xd, x.T @ delta), (raw.mean_x, 0 * x[0])):
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert raw.t_delta == pytest.approx((delta**2).sum(), rel=1e-12)
    oracle = np.linalg.lstsq(x, delta, rcond=None)[0]
    fitted = fit_map(raw, precision="exact")
    np.testing.assert_allclose(fitted.b.numpy(), oracle, atol=1e-9)
    assert not fitted.mean_delta.any()
    assert squared_error(fitted, raw) == pytest.approx(((delta - x @ oracle) ** 2).sum(), rel=1e-9)
    assert (raw.c_xx_light is None) != heavy
    if raw.c_xx_light is not None:
        light = np.delete(x, 17, 0)
        np.testing.assert_allclose(raw.c_xx_light.numpy(), light.T @ light, rtol=1e-9)


@pytest.mark.parametrize("n", [10, 24, 25])
@pytest.mark.parametrize("intercept", [False, True])
def test_a_map_to_a_narrower_delta_has_minimum_norm_where_rows_or_features_are_wanting(n, intercept):
    x, y = states(n, 24)
    x[:, 4] = 0.0
    moments, x, delta = narrower(x, y, 6, intercept=intercept)
    oracle = LinearRegression(fit_intercept=intercept).fit(x, delta)
    np.testing.assert_allclose(fit_map(moments, precision="exact").b.numpy(), oracle.coef_.T, atol=1e-7)
