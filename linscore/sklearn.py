"""For scikit-learn: an affine map, fitted from moments, as an estimator. Needs scikit-learn (`linscore[probe]`)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from linscore.errors import LinscoreError
from linscore.statistics.maps import FittedMap, check_options, fit
from linscore.statistics.moments import Moments
from linscore.statistics.ridge import Regression

__all__ = ["AffineMap"]

FLOATS = (np.float64, np.float32)


class AffineMap(RegressorMixin, BaseEstimator):
    """y ≈ μ_y + (x − μ_x) B, or with `residual` y ≈ x + (x − μ_x) B + μ_δ: what `linscore.fit_block_map` fits.

    Without `ridge` and `rank` it is scikit-learn's LinearRegression, of minimum norm where rows do not span all
    features; sums are float64. `score` is linearity on the rows given, their share of variance that is explained: R²
    weighted by variance.

    Args:
        kind: "full", "diagonal" to scale each feature by itself, or "mean" for a constant.
        rank: the largest rank B may have.
        ridge: λ > 0 of features of unit variance, or "auto": the one with the least held-out error.
        folds: the rows are held out in so many runs of their order, where `ridge` is "auto".
        residual: fit what y adds to x, which a ridge shrinks to nothing then; y must be as wide as x.

    Attributes:
        map_: the `FittedMap`.
        coef_: `[e, d]`, or `[d]` of a y without columns, float64; with `residual` x itself included.
        intercept_: `[e]`, or a number.

    Examples:
        >>> from linscore.sklearn import AffineMap
        >>> fitted = AffineMap().fit(x[:300].numpy(), y[:300].numpy())
        >>> fitted.predict(x.numpy()).shape, fitted.score(x[300:].numpy(), y[300:].numpy()) > 0.9
        ((600, 16), True)
    """

    def __init__(
        self,
        *,
        kind: Literal["full", "diagonal", "mean"] = "full",
        rank: int | None = None,
        ridge: float | Literal["auto"] | None = None,
        folds: int = 2,
        residual: bool = False,
    ) -> None:
        self.kind = kind
        self.rank = rank
        self.ridge = ridge
        self.folds = folds
        self.residual = residual

    def fit(self, X: ArrayLike, y: ArrayLike) -> AffineMap:
        """Fit to `X` `[n, d]` and `y` `[n, e]` or `[n]`, e ≤ d.

        Raises:
            LinscoreError: which is a ValueError, for options that do not fit each other or the data.
        """
        checks: dict[str, Any] = {"multi_output": True, "y_numeric": True, "ensure_min_samples": 2}
        rows, target = validate_data(self, X, y, dtype=FLOATS, **checks)
        self._column = target.ndim == 1
        self.map_ = self._fitted(rows, (target[:, None] if self._column else target).astype(rows.dtype, copy=False))
        b, mean_x, mean = (one.numpy() for one in (self.map_.b, self.map_.mean_x, self.map_.mean_delta))
        added = np.eye(len(b)) if self.residual else 0.0
        coef, intercept = (b + added).T, mean + (mean_x if self.residual else 0.0) - mean_x @ (b + added)
        self.coef_ = coef[0] if self._column else coef
        self.intercept_ = intercept[0] if self._column else intercept
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The map of `X` `[n, d]`: `[n, e]`, or `[n]` as y was, float64."""
        check_is_fitted(self)
        rows: Any = validate_data(self, X, dtype=FLOATS, reset=False)
        moved = rows.astype(np.float64) - self.map_.mean_x.numpy()
        found: NDArray[np.float64] = moved @ self.map_.b.numpy() + self.map_.mean_delta.numpy()
        found = rows + found if self.residual else found
        return found[:, 0] if self._column else found

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """1 − Σ‖y − predicted‖² / Σ‖y − ȳ‖²: linearity where these are other rows than those of the fit, held out."""
        return float(r2_score(y, self.predict(X), sample_weight=sample_weight, multioutput="variance_weighted"))

    def _fitted(self, x: NDArray[Any], y: NDArray[Any]) -> FittedMap:
        (_, d), (_, e) = x.shape, y.shape
        if e > d or (e < d and (self.residual or self.kind == "diagonal")):
            wanted = "as wide as" if e < d else "no wider than"
            raise LinscoreError(f"`y` has {e} columns and `X` {d}: give a `y` that is {wanted} `X`")
        moments = Moments(d, e, folds=self.folds if self.ridge == "auto" else 1, precision="exact")
        runs = zip(np.array_split(x, moments.folds), np.array_split(y, moments.folds), strict=True)
        for fold, (x_run, y_run) in enumerate(runs):
            given: dict[str, Any] = {"y" if self.residual else "delta": y_run}
            moments.update(x_run, **given, fold=fold)
        check_options(moments, self.kind, self.rank, self.ridge)
        return fit(Regression.of(moments), kind=self.kind, rank=self.rank, ridge=self.ridge)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
