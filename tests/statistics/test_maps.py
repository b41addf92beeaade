import numpy as np
import pytest
import torch
from oracles import states
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

from linscore import LinscoreError, Moments
from linscore.statistics.maps import fit_block_map
from linscore.statistics.ridge import RIDGES, Regression, ridge_path

D, FOLDS = 24, 3


def sample(n: int = 900, noise: float = 0.02) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, y, fold of each row; features of unequal variance and folds of unequal size."""
    x, y = states(n, D, noise=noise)
    x, delta = x * torch.logspace(-1, 1, D), y - x
    return x, x + delta, (torch.arange(n) % 7) % FOLDS


def moments_of(x: torch.Tensor, y: torch.Tensor, folds: torch.Tensor | None = None) -> Moments:
    moments = Moments(x.shape[1], folds=1 if folds is None else int(folds.max()) + 1, precision="exact")
    for fold in range(moments.folds):
        rows = slice(None) if folds is None else folds == fold
        moments.update(x[rows].double(), y[rows].double(), fold=fold)
    return moments


def doubles(x: torch.Tensor, y: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """X and δ."""
    return x.double().numpy(), (y.double() - x.double()).numpy()


def scikit_ridge(x: np.ndarray, delta: np.ndarray, ridge: float):
    """What predicts δ: Ridge(λn) on standardized features, with an intercept."""
    scaler = StandardScaler().fit(x)
    oracle = Ridge(ridge * len(x)).fit(scaler.transform(x), delta)
    return lambda rows: oracle.predict(scaler.transform(rows))


def reduced_rank(x: np.ndarray, delta: np.ndarray, rank: int) -> np.ndarray:
    """B of rank r by the textbook: least squares, then the SVD of the fitted values themselves."""
    x, delta = x - x.mean(0), delta - delta.mean(0)
    b = np.linalg.lstsq(x, delta, rcond=None)[0]
    v = np.linalg.svd(x @ b, full_matrices=False)[2][:rank]
    return b @ v.T @ v


@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 0.1, 5.0])
def test_a_ridge_map_is_scikit_learns_ridge_on_standardized_features(ridge):
    x, y, _ = sample()
    rows, delta = doubles(x, y)
    fitted = fit_block_map(moments_of(x, y), ridge=ridge)
    np.testing.assert_allclose(fitted(x).numpy() - rows, scikit_ridge(rows, delta, ridge)(rows), atol=1e-6)


def test_the_path_holds_the_errors_on_the_held_out_rows_themselves():
    x, y, folds = sample()
    rows, delta = doubles(x, y)
    path = ridge_path(Regression.of(moments_of(x, y, folds)))
    assert [ridge for ridge, _ in path] == list(RIDGES)
    for ridge, got in path:
        error = total = 0.0
        for fold in range(FOLDS):
            test = (folds == fold).numpy()
            predicted = scikit_ridge(rows[~test], delta[~test], ridge)(rows[test])
            error += ((delta[test] - predicted) ** 2).sum()
            total += ((delta[test] - delta[test].mean(0)) ** 2).sum()
        assert got == pytest.approx(error / total, rel=1e-6)


def test_the_ridge_chosen_is_the_minimum_of_the_path_and_lies_inside_it():
    x, y, folds = sample(n=120, noise=0.3)
    fitted = fit_block_map(moments_of(x, y, folds), ridge="auto")
    errors = [error for _, error in fitted.path]
    assert fitted.ridge == RIDGES[int(np.argmin(errors))]
    assert RIDGES[0] < fitted.ridge < RIDGES[-1]
    assert fitted.error_heldout == pytest.approx(min(errors), rel=1e-9)
    plain = fit_block_map(moments_of(x, y, folds))
    assert plain.error_heldout is not None
    assert min(errors) < plain.error_heldout


@pytest.mark.parametrize("rank", [1, 3, 10, D - 1])
def test_rank_r_is_a_direct_reduced_rank_regression(rank):
    x, y, _ = sample()
    fitted = fit_block_map(moments_of(x, y), rank=rank)
    oracle = reduced_rank(*doubles(x, y), rank)
    np.testing.assert_allclose(fitted.b.numpy(), oracle, atol=1e-6 * np.abs(oracle).max())
    assert np.linalg.matrix_rank(fitted.b.numpy(), tol=1e-10) == rank == fitted.rank
    down, up = fitted.factors
    torch.testing.assert_close(down @ up, fitted.b, rtol=0, atol=1e-15)


def test_rank_r_is_better_than_the_full_map_cut_to_that_rank():
    x, y, _ = sample()
    rows, delta = doubles(x, y)
    u, s, vt = np.linalg.svd(fit_block_map(moments_of(x, y)).b.numpy())
    cut = (rows - rows.mean(0)) @ (u[:, :3] * s[:3] @ vt[:3]) + delta.mean(0)
    total = ((delta - delta.mean(0)) ** 2).sum()
    assert fit_block_map(moments_of(x, y), rank=3).error < 0.9 * ((delta - cut) ** 2).sum() / total


@pytest.mark.parametrize("ridge", [None, 1e-2])
def test_rank_d_is_the_full_map(ridge):
    x, y, folds = sample()
    full, ranked = (fit_block_map(moments_of(x, y, folds), ridge=ridge, rank=rank) for rank in (None, D))
    torch.testing.assert_close(ranked.b, full.b, rtol=0, atol=1e-12)
    assert ranked.error_heldout == pytest.approx(full.error_heldout, rel=1e-9)


def test_the_diagonal_map_is_one_regression_for_each_feature():
    x, y, _ = sample()
    fitted = fit_block_map(moments_of(x, y), kind="diagonal")
    rows, delta = doubles(x, y)
    for j in range(D):
        oracle = LinearRegression().fit(rows[:, [j]], delta[:, j])
        assert fitted.b[j, j].item() == pytest.approx(oracle.coef_[0], abs=1e-9)
        predicted = fitted(x)[:, j].numpy() - rows[:, j]
        np.testing.assert_allclose(predicted, oracle.predict(rows[:, [j]]), atol=1e-8)
    assert fitted.b.count_nonzero() == D


@pytest.mark.parametrize(
    "options", [{}, {"rank": 4}, {"ridge": 0.01}, {"rank": 4, "ridge": 0.01}, {"kind": "diagonal"}, {"kind": "mean"}]
)
def test_errors_are_those_on_the_rows_themselves(options):
    x, y, folds = sample()
    _, delta = doubles(x, y)
    fitted = fit_block_map(moments_of(x, y, folds), **options)
    left = (y.double() - fitted(x)).square().sum().item()
    assert fitted.error == pytest.approx(left / ((delta - delta.mean(0)) ** 2).sum(), rel=1e-9)
    error = total = 0.0
    for fold in range(FOLDS):
        test = folds == fold
        other = fit_block_map(moments_of(x[~test], y[~test]), **options)
        error += (y[test].double() - other(x[test])).square().sum().item()
        total += ((delta[test] - delta[test].mean(0)) ** 2).sum()
    assert fitted.error_heldout == pytest.approx(error / total, rel=1e-9)
    assert fitted.error_dropped == pytest.approx((delta**2).sum() / total, rel=1e-9)


def test_the_mean_map_adds_the_mean_to_every_token():
    x, y, _ = sample()
    fitted = fit_block_map(moments_of(x, y), kind="mean")
    _, delta = doubles(x, y)
    np.testing.assert_allclose((fitted(x) - x.double()).numpy(), np.tile(delta.mean(0), (len(x), 1)), atol=1e-8)
    assert fitted.error == pytest.approx(1)
    assert (fitted.parameters, fitted.flops_per_token) == (D, 0)


@pytest.mark.parametrize("ridge", [None, "auto"])
def test_an_exactly_affine_block_is_fitted_without_error(ridge):
    x, _, folds = sample()
    generator = torch.Generator().manual_seed(5)
    y = x.double() + x.double() @ torch.randn(D, D, generator=generator).double() + 3
    fitted = fit_block_map(moments_of(x, y, folds), ridge=ridge)
    assert fitted.error_heldout <= 1e-5
    assert (fitted(x) - y).norm() <= 1e-5 * (y - x).norm()


def test_heavy_rows_and_features_that_never_change_do_not_disturb_the_ridge():
    x, y, folds = sample()
    x, delta = x.double(), y.double() - x.double()
    x[::97] *= 1000  # sinks: the penalty is a share of the other rows' variance
    x[:, 3], delta[:, 3] = 7.0, 0.5
    moments = moments_of(x, x + delta, folds)
    assert moments.heavy_rows == 10
    fitted = fit_block_map(moments, ridge=1e-2)
    rows, delta = x - x.mean(0), delta - delta.mean(0)
    light = torch.ones(len(x), dtype=torch.bool)
    light[::97] = False
    variance = (x[light] - x[light].mean(0)).square().sum(0)
    keep = torch.arange(D) != 3
    normal = rows.T @ rows + 1e-2 * torch.diag(variance)
    b = torch.linalg.solve(normal[keep][:, keep], rows[:, keep].T @ delta)
    torch.testing.assert_close(fitted.b[keep], b, rtol=1e-6, atol=1e-9)
    assert fitted.b[3].abs().max() == 0


def test_parameters_and_operations_are_those_of_the_form():
    moments = moments_of(*sample()[:2])
    full, low, diagonal = (fit_block_map(moments, **options) for options in ({}, {"rank": 2}, {"kind": "diagonal"}))
    assert (full.parameters, full.flops_per_token) == (D * D + D, 2 * D * D)
    assert (low.parameters, low.flops_per_token) == (4 * D + D, 8 * D)
    assert (diagonal.parameters, diagonal.flops_per_token) == (2 * D, 2 * D)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "`rank` is 0: give 1 or more"),
        ({"rank": 25}, "`rank` is 25: give 24 or less"),
        ({"rank": 2.5}, "`rank` is 2.5: give a whole number"),
        ({"rank": "2"}, "give a whole number"),
        ({"ridge": 0.0}, "number above 0"),
        ({"ridge": float("nan")}, "number above 0"),
        ({"ridge": "best"}, "number above 0, or auto"),
        ({"kind": "square"}, "choose full, diagonal"),
        ({"kind": "diagonal", "rank": 2}, "neither `rank` nor `ridge`"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(LinscoreError, match=message):
        fit_block_map(moments_of(*sample()[:2]), **options)


def test_one_fold_gives_no_held_out_error_and_a_block_that_adds_a_constant_gives_no_error():
    x, y, _ = sample()
    alone = fit_block_map(moments_of(x, y), ridge="auto")
    assert (alone.error_heldout, alone.ridge) == (None, None)
    fitted = fit_block_map(moments_of(x, x))
    assert fitted.error is None
    assert fitted.b.abs().max() == 0
