"""Every figure of one block from its moments alone (paper: sections 3.1 and 5; docs/notation.md).

linearity                = 1 − RSS/t_y       min over affine maps of the normalized error, "with the residual"
linearity w/o residual   = 1 − RSS/t_δ       the same with what the block adds in place of what leaves it
held-out                 = 1 − ΣE/Σt         the map fitted on the other folds, the error on this one
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from linscore_kernels.given import as_rows
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.statistics.affine import fit_map, squared_error
from linscore.statistics.centered import Centered, centered, splits
from linscore.statistics.moments import Moments
from linscore.statistics.solve import solve

# How far rounding takes a score beyond 0 or 1: 16-bit products without residual at "fast" (docs/results.md).
SLACK = {"fast": 1e-3, "exact": 1e-6}


@dataclass(frozen=True)
class Heldout:
    """The held-out scores of one set of rows. None: not defined there (one fold; a block that adds nothing)."""

    linearity_heldout: float | None
    linearity_heldout_spread: float | None
    linearity_no_residual_heldout: float | None
    linearity_no_residual_heldout_spread: float | None


@dataclass(frozen=True)
class Linearity:
    """The scores of one set of rows. None: not defined there, or not finite."""

    linearity: float | None
    linearity_heldout: float | None
    linearity_heldout_spread: float | None
    linearity_no_residual: float | None
    linearity_no_residual_heldout: float | None
    linearity_no_residual_heldout_spread: float | None
    rank: int
    cutoff_sensitivity: float | None


@dataclass(frozen=True)
class StateMetrics:
    """The shape of a cloud of states, from the eigenvalues λ of its C_xx. None: all states alike, or not asked for."""

    anisotropy: float | None  # λ_max / Σλ
    effective_rank: float | None  # exp(entropy of λ/Σλ)
    participation_ratio: float | None  # (Σλ)² / Σλ²


@dataclass(frozen=True)
class BlockMetrics(Linearity):
    """All figures of one block. Angles in units of π; norms in those of the residual stream, means over tokens.

    Examples:
        >>> figures = linscore.block_metrics(moments)
        >>> figures.width, figures.rows, figures.heavy_rows
        (16, 600, 0)
        >>> figures.linearity > figures.procrustes
        True
    """

    linearity_no_residual_unrelated: float | None  # what independent x and y would score, because δ contains −x
    relative_error: float | None  # √(RSS/t_y)
    cosine: float | None  # cos(x, y)
    block_influence: float | None  # 1 − cos
    angular_distance: float | None
    delta_ratio: float | None  # ‖δ‖/‖x‖
    norm_x: float | None
    norm_y: float | None
    norm_delta: float | None
    procrustes: float | None
    cka: float | None
    anisotropy: float | None
    effective_rank: float | None
    participation_ratio: float | None
    rounding_share: float | None  # of t_δ, noise because states are stored in 16 bits
    width: int
    rows: int
    heavy_rows: int
    without_heavy: Linearity | None
    expected_loss: float | None = None  # nats a token, where it is dropped; None: no gradients were taken
    expected_losses: dict[str, float | None] | None = None  # the same by form, see `linscore.statistics.sensitivity`


def linearity(
    x: Any, y: Any, mask: Any = None, *, rows: Any = None, folds: int = 2, precision: str = "fast"
) -> BlockMetrics:
    """Every figure of two tensors in one call (paper: section 3.1): how much of `y` is an affine map of `x`.

    What is too large for memory goes to `Moments` piece by piece, and its moments to `block_metrics`.

    Args:
        x: `[..., d]` of torch, NumPy or anything with `__dlpack__`, any float dtype and device: states, one a row.
        y: the same states one step later, of the same shape.
        mask: the leading shape, bool or 0 and 1: which rows count.
        rows: in its place, indices of the flattened rows, or bool for each.
        folds: the rows that count are held out in so many runs, in their order; 1 leaves the held-out figures empty.
        precision: "fast" or "exact" (see `Moments`); float64 is exact in any case.

    Raises:
        LinscoreError: for shapes that differ, or fewer than two finite rows.

    Examples:
        >>> figures = linscore.linearity(x, y)
        >>> figures.linearity > figures.linearity_heldout > figures.linearity_no_residual_heldout
        True
    """
    x, y, _, rows, _ = given = as_rows(x, y, mask=mask, rows=rows)
    if given.n < 2:
        raise _too_few(given.n)
    moments = Moments(x.shape[1], folds=folds, precision=precision, device=x.device)
    if rows is None:
        for fold, (x_run, y_run) in enumerate(zip(x.tensor_split(folds), y.tensor_split(folds), strict=True)):
            moments.update(x_run, y_run, fold=fold)
    else:
        for fold, run in enumerate(rows.tensor_split(folds)):
            moments.update(x, y, rows=run, fold=fold)
    return block_metrics(moments)


def _too_few(rows: int) -> LinscoreError:
    return LinscoreError(f"only {rows} rows were added: a score needs two at least, and 10·d to mean much")


def block_metrics(moments: Moments, *, after: Moments | None = None, spectra: bool = True) -> BlockMetrics:
    """Score one block.

    Args:
        moments: of the block's (x, y).
        after: moments that begin at y (the next block's, over the same rows); linear CKA needs them.
        spectra: whether to take the eigenvalues and the nuclear norm: about 5d³, more than the scores themselves.

    Raises:
        LinscoreError: when the moments hold fewer than two rows, or a δ that is narrower than x, or are so inexact that
            an in-sample score comes out below 0 or above 1.

    Examples:
        >>> figures = linscore.block_metrics(moments)
        >>> round(figures.linearity, 2), round(figures.linearity_no_residual_heldout, 1)
        (0.94, 0.9)
    """
    if moments.width_delta < moments.d:
        widths = f"a δ of width {moments.width_delta} beside x of width {moments.d}"
        raise LinscoreError(f"these moments hold {widths}: maps can be fitted to them, scores need moments of (x, y)")
    rows = sum(map(moments.rows, range(moments.folds)))
    if rows < 2:  # before anything of d² is made
        raise _too_few(rows)
    total = moments.total()
    whole = centered(moments, range(moments.folds))
    scores = score_folds(moments, whole)
    cloud = state_metrics(whole.c_xx, spectra=spectra)
    heavy_rows = moments.heavy_rows
    return BlockMetrics(
        **vars(scores),
        linearity_no_residual_unrelated=_ratio(whole.t_x, whole.t_x + whole.t_y),
        relative_error=None if scores.linearity is None else max(0.0, 1 - scores.linearity) ** 0.5,
        cosine=1 - total.mean("block_influence"),
        rounding_share=_ratio(total.mean("rounding") * whole.n, whole.t_delta),
        block_influence=total.mean("block_influence"),
        angular_distance=total.mean("angular_distance"),
        delta_ratio=total.mean("delta_ratio"),
        norm_x=total.mean("norm_x"),
        norm_y=total.mean("norm_y"),
        norm_delta=total.mean("norm_delta"),
        procrustes=procrustes(whole) if spectra else None,
        cka=None if after is None else linear_cka(whole, after),
        anisotropy=cloud.anisotropy,
        effective_rank=cloud.effective_rank,
        participation_ratio=cloud.participation_ratio,
        width=moments.d,
        rows=int(total.n),
        heavy_rows=heavy_rows,
        without_heavy=_without_heavy(moments) if heavy_rows else None,
    )


def score_folds(moments: Moments, whole: Centered, *, heavy: bool = True) -> Linearity:
    """In-sample scores of `whole`; held-out scores, each fold under the map that was fitted on the others."""
    in_sample = solve(whole, precision=moments.precision, want_map=False)
    rss, slack = whole.t_delta - in_sample.explained, SLACK[moments.precision]
    slack_y = slack * (whole.t_x + whole.t_delta) / (whole.t_y or 1.0)  # t_y may be small beside what it comes from
    return Linearity(
        linearity=_bounded(_score(rss, whole.t_y), slack_y),
        linearity_no_residual=_bounded(_score(rss, whole.t_delta), slack),
        rank=in_sample.rank,
        cutoff_sensitivity=in_sample.cutoff_sensitivity,
        **vars(heldout(moments, heavy=heavy)),
    )


def heldout(moments: Moments, *, heavy: bool = True) -> Heldout:
    """Each fold under the map that was fitted on the others."""
    tests = _test_folds(moments, heavy)
    errors, totals_y, totals_delta = zip(*tests, strict=True) if tests else ((), (), ())
    return Heldout(
        linearity_heldout=_score(sum(errors), sum(totals_y)),
        linearity_heldout_spread=_spread(errors, totals_y),
        linearity_no_residual_heldout=_score(sum(errors), sum(totals_delta)),
        linearity_no_residual_heldout_spread=_spread(errors, totals_delta),
    )


def _test_folds(moments: Moments, heavy: bool) -> list[tuple[float, float, float]]:
    """(E, t_y, t_δ) of each fold under the map of the others."""
    tests = []
    for training, test in splits(moments, heavy=heavy):
        fitted = fit_map(training, precision=moments.precision)
        tests.append((squared_error(fitted, test), test.t_y, test.t_delta))
    return tests


def _ratio(part: float, total: float) -> float | None:
    return part / total if total > 0 else None


def _score(error: float, total: float) -> float | None:
    return 1 - error / total if total > 0 else None


def _bounded(score: float | None, slack: float) -> float | None:
    """A score that cannot lie outside [0, 1], brought back into it where rounding alone has taken it out."""
    if score is not None and not -slack <= score <= 1 + slack:
        raise LinscoreError(
            f"a score that cannot lie outside [0, 1] comes out as {score:.6g}: these moments are not exact enough, "
            "collect them anew with `precision=exact`"
        )
    return score if score is None else min(max(score, 0.0), 1.0)


def _spread(errors: Sequence[float], totals: Sequence[float]) -> float | None:
    """Two folds: the difference of their scores; more: the standard deviation."""
    scores = [1 - error / total for error, total in zip(errors, totals, strict=True) if total > 0]
    if len(scores) < 2:
        return None
    return abs(scores[0] - scores[1]) if len(scores) == 2 else statistics.stdev(scores)


def _without_heavy(moments: Moments) -> Linearity | None:
    light = centered(moments, range(moments.folds), heavy=False)
    return score_folds(moments, light, heavy=False) if light.n >= 2 else None


def procrustes(moments: Centered) -> float | None:
    """1 − Procrustes disparity, (‖C_xy‖_*)²/(t_x t_y): how well y is x up to rotation, reflection and scale.

    Never above linearity. Singular values come as roots of the eigenvalues of C_xyᵀC_xy, which is cheaper than an
    SVD; what squaring loses lies below 1e-7 of the largest.
    """
    total = moments.t_x * moments.t_y
    if not total > 0:
        return None
    squares = torch.linalg.eigvalsh(moments.c_xy.T @ moments.c_xy)
    squares = torch.where(squares > torch.finfo(squares.dtype).eps * len(squares) * squares[-1], squares, 0.0)
    return _bounded(squares.sqrt().sum().item() ** 2 / total, SLACK[moments.precision])


def linear_cka(moments: Centered, after: Moments) -> float | None:
    """‖C_xy‖² / ‖C_xx‖‖C_yy‖ (Kornblith et al., 2019); None unless `after` saw the same rows, and they vary."""
    state = centered(after, range(after.folds))
    total = (moments.c_xx.norm() * state.c_xx.norm()).item()
    if state.n != moments.n or not moments.t_y > 0 or not total > 0:
        return None
    return _bounded(moments.c_xy.norm().square().item() / total, SLACK[moments.precision])


def state_metrics(c_xx: Tensor, *, spectra: bool = True) -> StateMetrics:
    """The shape of the cloud of states behind C_xx."""
    total = c_xx.trace()
    if not total > 0:
        return StateMetrics(None, None, None)
    participation = (total.square() / c_xx.square().sum()).item()
    if not spectra:
        return StateMetrics(None, None, participation)
    shares = (torch.linalg.eigvalsh(c_xx) / total).clamp(0, 1)
    entropy = -torch.special.xlogy(shares, shares).sum()
    return StateMetrics(shares[-1].item(), entropy.exp().item(), participation)
