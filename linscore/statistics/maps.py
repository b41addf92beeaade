"""Affine maps that can stand in for a block, y ≈ x + (x − μ_x) B + μ_δ, from its moments alone, in float64.

    full      B = C_xx⁺ C_xδ
    ridge     B_λ = (C_xx + λD)⁻¹ C_xδ,  D = diag(C_xx) of the light rows: scikit-learn's Ridge(λn) on standardized x
    rank r    B_r = B V_r V_rᵀ,  V_r the first right singular vectors of C_xx^{1/2} B  (reduced-rank regression:
              Izenman, "Reduced-rank regression for the multivariate linear model", J. Multivariate Anal. 5, 1975)
    diagonal  B = diag(C_xδ) / diag(C_xx)
    mean      B = 0: μ_δ for every token

λ has no unit and does not depend on the number of rows, so what the folds choose holds for all rows together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from linscore.errors import LinscoreError, at_least
from linscore.statistics.affine import AffineMap, diagonal_map, fit_map, mean_map, squared_error
from linscore.statistics.centered import Centered
from linscore.statistics.moments import Moments
from linscore.statistics.ridge import Regression, _ridge_map, ridge_path


@dataclass(frozen=True)
class FittedMap(AffineMap):
    """A map with what is known of it. Errors are shares of t_δ: 1 − linearity without residual.

    Examples:
        >>> fitted = linscore.fit_block_map(moments, rank=4)
        >>> fitted.rank, fitted.error_heldout > fitted.error
        (4, True)
    """

    kind: str  # "full", "low-rank", "diagonal" or "mean"
    factors: tuple[Tensor, Tensor] | None  # [d, r] and [r, d] float64, b = product, where the rank was limited
    ridge: float | None  # λ
    path: tuple[tuple[float, float], ...]  # (λ, held-out error) of every λ tried, at full rank
    error: float | None  # None: the block adds nothing that varies
    error_heldout: float | None  # None: only one fold has rows
    error_dropped: float | None  # of no map at all, 1 or more: μ_δ is missed too

    @property
    def rank(self) -> int:
        """The r of a low-rank map; d otherwise."""
        return len(self.b) if self.factors is None else self.factors[0].shape[1]

    def factors_by_name(self) -> dict[str, Tensor]:
        """The two factors of a B of limited rank, its diagonal, or nothing; else B itself."""
        if self.factors is not None:
            return dict(zip(("down", "up"), self.factors, strict=True))
        if self.kind == "diagonal":
            return {"scale": self.b.diagonal()}
        return {} if self.kind == "mean" else super().factors_by_name()

    @property
    def parameters(self) -> int:
        """How many a linear block of this map has: those of B, and d for μ_δ (μ_x is not trained)."""
        d = len(self.b)
        return {"full": d * d, "low-rank": 2 * d * self.rank, "diagonal": d, "mean": 0}[self.kind] + d

    @property
    def flops_per_token(self) -> int:
        """Multiplications and additions of (x − μ_x) B for one token."""
        return 2 * (self.parameters - len(self.b))


def fit_block_map(
    moments: Moments,
    *,
    kind: Literal["full", "diagonal", "mean"] = "full",
    rank: int | None = None,
    ridge: float | Literal["auto"] | None = None,
) -> FittedMap:
    """The best map of one block on all rows of its moments, heavy ones included.

    Args:
        moments: of the block's (x, y), or of the states around a span of blocks.
        kind: "full", "diagonal" to scale each feature by itself, or "mean" to add the same to every token.
        rank: the largest rank B may have; it is the best such B of all, not a truncated one.
        ridge: λ > 0; "auto" takes the λ of `RIDGES` with the least held-out error of the full map, from the moments of
            the folds, without another pass over tokens; none where only one fold has rows.

    Raises:
        LinscoreError: for options that do not fit each other or the moments, or without a finite row.

    Examples:
        >>> fitted = linscore.fit_block_map(moments, ridge="auto")
        >>> fitted.residual_norms(x, y).shape
        torch.Size([600])
    """
    check_options(moments, kind, rank, ridge)
    if moments.width_delta < moments.d:
        raise LinscoreError("these moments pair an MLP's activation with what blocks add: give them to fit_fusion")
    return fit(Regression.of(moments), kind=kind, rank=rank, ridge=ridge)


def fit(
    regression: Regression, *, kind: str = "full", rank: int | None = None, ridge: float | str | None = None
) -> FittedMap:
    """The map of a regression; the options are those of `fit_block_map`."""
    _check_ridge(ridge)
    path = ridge_path(regression) if ridge == "auto" and regression.splits else ()
    chosen, heldout = min(path, key=lambda point: point[1]) if path else (None if ridge == "auto" else ridge, None)
    assert not isinstance(chosen, str)
    fitted, factors = _fit(regression.whole, regression.precision, kind, rank, chosen)
    if heldout is None or rank is not None:
        heldout = _heldout_error(regression, kind, rank, chosen)
    return FittedMap(
        **vars(fitted),
        kind="low-rank" if factors else kind,
        factors=factors,
        ridge=chosen,
        path=path,
        error=_share([squared_error(fitted, regression.whole)], regression.totals[-1:]),
        error_heldout=None if heldout is None else max(0.0, heldout),  # rounding may cross zero
        error_dropped=_share([regression.dropped], regression.totals[: len(regression.splits)] or regression.totals),
    )


def _fit(
    moments: Centered, precision: str, kind: str, rank: int | None, ridge: float | None
) -> tuple[AffineMap, tuple[Tensor, Tensor] | None]:
    """The map, and the factors of its B where the rank is limited."""
    if kind == "diagonal":
        return diagonal_map(moments), None
    if kind == "mean":
        return mean_map(moments), None
    fitted = fit_map(moments, precision=precision) if ridge is None else _ridge_map(moments, ridge, precision)
    if rank is None:
        return fitted, None
    down, up = of_rank(fitted.b, moments.c_xd, rank)
    return AffineMap(down @ up, moments.mean_x, moments.mean_delta), (down, up)


def of_rank(b: Tensor, c_xd: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors `[d, r]` and `[r, e]` of the best B of rank r, from the best of any rank and C_xδ, both `[d, e]`."""
    # BᵀC_xδ is BᵀC_xxB (with ridge: Bᵀ(C_xx + λD)B), whose eigenvectors are the singular vectors wanted.
    explained = b.T @ c_xd
    up = torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -rank:].T
    return b @ up.T, up


def _heldout_error(regression: Regression, kind: str, rank: int | None, ridge: float | None) -> float | None:
    """Each fold's error under the map that is fitted on the others in the same way, as a share of t_δ."""
    fits = ((_fit(training, regression.precision, kind, rank, ridge)[0], test) for training, test in regression.splits)
    return _share([squared_error(fitted, test) for fitted, test in fits], regression.totals[:-1])


def _share(errors: Sequence[float], totals: Sequence[float]) -> float | None:
    return sum(errors) / sum(totals) if sum(totals) > 0 else None


def check_options(moments: Moments, kind: str, rank: int | None, ridge: float | str | None) -> None:
    """Make sure that a map can be asked for like this.

    Raises:
        LinscoreError: if not.
    """
    if kind not in ("full", "diagonal", "mean"):
        raise LinscoreError(f"`kind` is {kind!r}: choose full, diagonal or mean, or give a `rank`")
    if kind != "full" and (rank is not None or ridge is not None):
        raise LinscoreError(f"a {kind} map takes neither `rank` nor `ridge`: it has one number for each feature")
    if not isinstance(moments, Moments):
        raise LinscoreError(f"`moments` is of type {type(moments).__name__}: give those of one block or span")
    at_least("rank", rank, 1, moments.d)


def _check_ridge(ridge: float | str | None) -> None:
    if isinstance(ridge, str) and ridge != "auto":
        raise LinscoreError(f"`ridge` is {ridge!r}: give a number above 0, or auto")
    if ridge is not None and ridge != "auto" and not 0 < float(ridge) < float("inf"):
        raise LinscoreError(f"`ridge` is {ridge}: give a number above 0, auto, or none")
