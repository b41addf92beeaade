"""An affine map as an estimator of scikit-learn, by scikit-learn's own checks and its linear models."""

import numpy as np
import pytest
from oracles import states
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import linscore
from linscore import LinscoreError
from linscore.sklearn import AffineMap
from linscore.statistics.ridge import RIDGES

D = 8
X, Y = (one.double().numpy() for one in states(300, D))
NOT_CONSTANT = {"check_estimators_nan_inf": "fits a y without variance, of which no ridge can be chosen"}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "not_meant"), [({}, {}), ({"ridge": "auto"}, NOT_CONSTANT)], ids=str)
def test_it_is_what_scikit_learn_takes_for_an_estimator(options, not_meant):
    results = check_estimator(AffineMap(**options), expected_failed_checks=not_meant, on_skip=None)
    assert {one["check_name"] for one in results if one["status"] == "skipped"} <= {"check_array_api_input"}
    assert {one["check_name"] for one in results if one["status"] == "xfail"} == set(not_meant)


@pytest.mark.parametrize(("residual", "y"), [(True, Y), (False, Y), (False, Y[:, :3]), (False, Y[:, 0])])
def test_without_options_it_is_linear_regression(residual, y):
    found, expected = AffineMap(residual=residual).fit(X, y), LinearRegression().fit(X, y)
    np.testing.assert_allclose(found.predict(X), expected.predict(X), atol=1e-10)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-9)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-9)


def test_of_rows_that_do_not_span_all_features_it_is_the_one_of_minimum_norm():
    found, expected = AffineMap().fit(X[:5], Y[:5]), LinearRegression().fit(X[:5], Y[:5])
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-9)


@pytest.mark.parametrize("residual", [False, True])
def test_a_ridge_is_scikit_learns_on_standardized_features(residual):
    expected = make_pipeline(StandardScaler(), Ridge(0.1 * len(X))).fit(X, Y - X if residual else Y).predict(X)
    found = AffineMap(ridge=0.1, residual=residual).fit(X, Y).predict(X)
    np.testing.assert_allclose(found, X + expected if residual else expected, atol=1e-8)


def test_the_ridge_that_is_chosen_has_the_least_error_on_runs_held_out():
    noisy = Y[:24] + 3 * np.random.default_rng(0).standard_normal((24, D))

    def error(ridge: float) -> float:
        total = 0.0
        for train, test in (slice(12), slice(12, 24)), (slice(12, 24), slice(12)):
            fitted = make_pipeline(StandardScaler(), Ridge(ridge * 12)).fit(X[train], noisy[train])
            total += ((noisy[test] - fitted.predict(X[test])) ** 2).sum()
        return total

    found = AffineMap(ridge="auto").fit(X[:24], noisy).map_.ridge
    assert found == min(RIDGES, key=error)
    assert found > min(RIDGES)


def test_its_score_is_linearity_and_held_out_that_of_held_out_rows():
    assert AffineMap().fit(X, Y).score(X, Y) == pytest.approx(linscore.linearity(X, Y).linearity, abs=1e-12)
    scores = cross_val_score(AffineMap(), X, Y, cv=2)
    errors, totals = zip(*(errors_on(test) for test in np.array_split(np.arange(len(X)), 2)), strict=True)
    assert scores == pytest.approx([1 - e / t for e, t in zip(errors, totals, strict=True)], abs=1e-10)
    heldout = linscore.linearity(X, Y, folds=2).linearity_heldout
    assert heldout == pytest.approx(1 - sum(errors) / sum(totals), abs=1e-10)


def errors_on(test: np.ndarray) -> tuple[float, float]:
    train = np.setdiff1d(np.arange(len(X)), test)
    missed = Y[test] - LinearRegression().fit(X[train], Y[train]).predict(X[test])
    return (missed**2).sum(), ((Y[test] - Y[test].mean(0)) ** 2).sum()


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({}, np.zeros((300, 9)), "`y` has 9 columns and `X` 8: give a `y` that is no wider than `X`"),
        ({"residual": True}, Y[:, :3], "`y` has 3 columns and `X` 8: give a `y` that is as wide as `X`"),
        ({"kind": "diagonal"}, Y[:, :3], "as wide as"),
        ({"kind": "diagonal", "rank": 2}, Y, "neither `rank` nor `ridge`"),
        ({"kind": "square"}, Y, "choose full, diagonal or mean"),
        ({"rank": 9}, Y, "give 8 or less"),
        ({"ridge": -1}, Y, "give a number above 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(options, y, message):
    with pytest.raises(LinscoreError, match=message):
        AffineMap(**options).fit(X, y)
