"""What the loss of a unit is expected to cost, from moments alone, in float64.

    expected loss = ½ tr(E[ggᵀ] E[RRᵀ])      nats a token; g = ∂(Σ loss)/∂(state after the unit)
    R = δ − (x − μ_x)B − μ                   what the unit's stand-in misses; drop: B = 0, μ = 0

The change of the loss to second order, ½ ΣRᵀHR, with the Hessian taken for the gradients' second moment (Fisher) and
gradients for independent of errors. From the moments of (x, δ) and of δ, on rows that the map was not fitted on:

    ΣRRᵀ = C_δδ − BᵀC_xδ − C_xδᵀB + BᵀC_xxB + n·uuᵀ,  u = (μ_δ − μ) − Bᵀ(μ_x − μ_x'), the prime being the map's
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.statistics.affine import AffineMap, diagonal_map, fit_map, mean_map
from linscore.statistics.centered import Centered, centered, splits
from linscore.statistics.maps import of_rank
from linscore.statistics.moments import Moments

__all__ = ["expected_loss", "expected_losses", "second_moment"]

LOW_RANK = 4  # d / 4: a map of that rank has half the parameters of a full one


def second_moment(moments: Moments) -> Tensor:
    """E[ggᵀ] `[d, d]` of the rows g that moments are of, about zero.

    Raises:
        LinscoreError: without a finite row.
    """
    found = centered(moments, range(moments.folds), intercept=False)
    return found.c_xx / found.n


def expected_loss(gradient: Tensor, moments: Moments, added: Moments, fitted: AffineMap) -> float:
    """What it is expected to cost, in nats a token, to put a map in the place of a unit, on all rows.

    Args:
        gradient: E[ggᵀ] `[d, d]` at the state after the unit.
        moments: of the unit's (x, δ).
        added: of its δ, over the same rows.
        fitted: what stands for it; `no_map` where nothing does.

    Raises:
        LinscoreError: for moments of other rows.
    """
    every = range(moments.folds)
    return _expected(gradient, [(fitted, centered(moments, every), centered(added, every))])


def expected_losses(gradient: Tensor, moments: Moments, added: Moments) -> dict[str, float]:
    """The same of every form, by its name: "drop", "mean", "diagonal", "rank R" and "full".

    Maps are fitted on the other folds than they are tried on, where there are several.
    """
    every = range(moments.folds)
    whole, of_added = centered(moments, every), centered(added, every)
    tests = [
        (training, test, of_test) for (training, test), (_, of_test) in zip(splits(moments), splits(added), strict=True)
    ] or [(whole, whole, of_added)]
    found: dict[str, list[tuple[AffineMap, Centered, Centered]]] = {}
    for training, test, of_test in tests:
        for form, fitted in _forms(training, moments.precision):
            found.setdefault(form, []).append((fitted, test, of_test))
    return {form: _expected(gradient, fits) for form, fits in found.items()}


def no_map(moments: Centered) -> AffineMap:
    """What stands for a unit that is dropped: nothing is added."""
    return AffineMap(torch.zeros_like(moments.c_xd), moments.mean_x, torch.zeros_like(moments.mean_delta))


def _forms(moments: Centered, precision: str) -> Iterator[tuple[str, AffineMap]]:
    yield "drop", no_map(moments)
    yield "mean", mean_map(moments)
    yield "diagonal", diagonal_map(moments)
    full = fit_map(moments, precision=precision)
    rank = max(1, len(full.b) // LOW_RANK)
    down, up = of_rank(full.b, moments.c_xd, rank)
    yield f"rank {rank}", AffineMap(down @ up, full.mean_x, full.mean_delta)
    yield "full", full


def _expected(gradient: Tensor, fits: list[tuple[AffineMap, Centered, Centered]]) -> float:
    total = sum(_weighted_error(gradient, *fit) for fit in fits)
    return total / 2 / sum(test.n for _, test, _ in fits)


def _weighted_error(gradient: Tensor, fitted: AffineMap, moments: Centered, added: Centered) -> float:
    """tr(E[ggᵀ] ΣRRᵀ) of a map on some rows."""
    if added.n != moments.n:
        raise LinscoreError(f"what the unit adds is of {added.n:g} rows, its moments of {moments.n:g}: score it again")
    b, weight = fitted.b, gradient.to(moments.c_xx.device)
    gap = (moments.mean_delta - fitted.mean_delta) - b.T @ (moments.mean_x - fitted.mean_x)
    weighted = b @ weight
    error = (weight * added.c_xx).sum() - 2 * (weighted * moments.c_xd).sum()
    error += (weighted * (moments.c_xx @ b)).sum() + moments.n * (gap @ weight @ gap)
    return max(0.0, error.item())  # rounding may cross zero
