"""Least squares with a penalty that has no unit, and the path of its held-out errors.

B_λ = (C_xx + λD)⁻¹ C_xδ,  D = diag(C_xx) of the light rows: scikit-learn's Ridge(λn) on standardized x
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.statistics.affine import AffineMap
from linscore.statistics.centered import Centered, centered, splits
from linscore.statistics.moments import Moments
from linscore.statistics.solve import equilibrate

# Half decades from what float32 sums can tell from nothing to a penalty ten times the variance of the features.
RIDGES = tuple(10 ** (exponent / 2) for exponent in range(-16, 3))


@dataclass(frozen=True)
class Regression:
    """Least squares of δ on x, over all rows and, for each fold in turn, over the others."""

    whole: Centered
    splits: tuple[tuple[Centered, Centered], ...]  # (the other folds, this fold)
    totals: tuple[float, ...]  # t_δ of each fold and, last, of all rows: what errors are shares of
    precision: str
    dropped: float  # Σ‖δ‖²: what is missed where nothing stands for the block

    @staticmethod
    def of(moments: Moments, *, intercept: bool = True) -> Regression:
        """From the moments of one pair of states; `intercept=False` looks for a map without a constant.

        Raises:
            LinscoreError: without a finite row.
        """
        every = range(moments.folds)
        totals = [test.t_delta for _, test in splits(moments)]
        raw = centered(moments, every)
        return Regression(
            whole=centered(moments, every, intercept=intercept),
            splits=tuple(splits(moments, intercept=intercept)),
            totals=(*totals, raw.t_delta),
            precision=moments.precision,
            dropped=raw.t_delta + raw.n * raw.mean_delta.square().sum().item(),
        )

    def mapped(self, change: Callable[[Centered], Centered]) -> Regression:
        """The same with x replaced by a function of it."""
        changed = tuple((change(training), change(test)) for training, test in self.splits)
        return replace(self, whole=change(self.whole), splits=changed)


def ridge_path(regression: Regression, ridges: Sequence[float] = RIDGES) -> tuple[tuple[float, float], ...]:
    """(λ, held-out error as a share of t_δ) of full ridge maps: one eigendecomposition for each fold.

    With C_xx = D^½ Q Λ Qᵀ D^½ and C_xδ of the other folds, and this fold's moments marked b:

        P = Qᵀ D^-½ C_xδ   R = Qᵀ D^-½ C_xδ^b   G = Qᵀ D^-½ C_xx^b D^-½ Q   u = Qᵀ D^-½ (μ_x^b − μ_x)   w = 1/(Λ + λ)
        E(λ) = t_δ^b − 2 Σ w_i P_i·R_i + wᵀ (G ∘ PPᵀ) w + n_b ‖μ_δ^b − μ_δ − Pᵀ(w ∘ u)‖²

    Raises:
        LinscoreError: if fewer than two folds have rows, or the block adds nothing that varies.
    """
    errors, total = torch.zeros(len(ridges), dtype=torch.float64), sum(regression.totals[:-1])
    for training, test in regression.splits:
        errors += _path_errors(training, test, ridges, regression.precision)
    if not total > 0:
        raise LinscoreError(
            "a ridge cannot be chosen: two folds with rows are needed, and a block that adds something; collect the "
            "moments with folds=2 or more, or say the ridge"
        )
    return tuple(zip(map(float, ridges), (errors / total).tolist(), strict=True))


def _path_errors(training: Centered, test: Centered, ridges: Sequence[float], precision: str) -> Tensor:
    """E(λ) `[len(ridges)]` of the maps fitted on `training`, on `test`."""
    values, basis = _eigenbasis(training, precision)
    p, r = basis.T @ training.c_xd, basis.T @ test.c_xd
    u = basis.T @ (test.mean_x - training.mean_x)
    linear = (p * r).sum(1)
    quadratic = (basis.T @ test.c_xx @ basis) * (p @ p.T)
    offset = test.mean_delta - training.mean_delta
    errors = []
    for ridge in ridges:
        w = 1 / (values + ridge)
        gap = offset - p.T @ (w * u)
        errors.append(test.t_delta - 2 * (w @ linear) + w @ quadratic @ w + test.n * (gap @ gap))
    return torch.stack(errors).cpu()


def _eigenbasis(moments: Centered, precision: str) -> tuple[Tensor, Tensor]:
    """Λ `[k]` and D^-½ Q `[d, k]`, without directions that are noise of the moments."""
    matrix, scale, floor = equilibrate(moments, precision)
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > floor
    return values[kept], scale[:, None] * vectors[:, kept]


def _ridge_map(moments: Centered, ridge: float, precision: str) -> AffineMap:
    values, basis = _eigenbasis(moments, precision)
    b = basis @ ((basis.T @ moments.c_xd) / (values + ridge)[:, None])
    return AffineMap(b, moments.mean_x, moments.mean_delta)
