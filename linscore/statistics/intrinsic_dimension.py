"""How many dimensions a cloud of states has near its points: TwoNN (Facco et al., Scientific Reports 7, 2017).

Of points that lie evenly near each other, the distances r₁ ≤ r₂ to the two nearest neighbours have a ratio μ = r₂/r₁
with P(μ > m) = m^−D. D is the slope of −log(1 − F(μ)) over log μ, a straight line through the origin.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from linscore.errors import LinscoreError

BLOCK = 1024  # points whose distances to all others are held at once
KEPT = 0.9  # share of the ratios that the line is fitted to: the largest bend it (Facco et al., Methods)
RESAMPLED, SEED = 200, 0
CANDIDATES = 8  # products lose what is small beside the points themselves


class IntrinsicDimension(NamedTuple):
    """D; its standard error, over points drawn again; and of how many points, those that are there twice left out."""

    dimension: float
    error: float
    points: int


def intrinsic_dimension(x: Tensor, *, kept: float = KEPT) -> IntrinsicDimension | None:
    """The TwoNN dimension of points `[n, d]`, any float dtype; None where fewer than 10 are apart.

    Points that are there more than once count once. n²·d products, and n·`BLOCK` distances held at once.

    Raises:
        LinscoreError: for anything but `[n, d]`, or values that are not finite.
    """
    if x.ndim != 2:
        raise LinscoreError(f"x is {list(x.shape)}: give points [n, d]")
    if not bool(x.isfinite().all()):
        raise LinscoreError("x has values that are not finite: leave those points out")
    ratios = _ratios(torch.unique(x.detach(), dim=0))
    if len(ratios) < 10:
        return None
    draws = torch.Generator().manual_seed(SEED)
    again = (torch.randint(len(ratios), (len(ratios),), generator=draws) for _ in range(RESAMPLED))
    dimensions = torch.stack([_slope(ratios[rows].sort().values, kept) for rows in again])
    return IntrinsicDimension(_slope(ratios, kept).item(), dimensions.std().item(), len(ratios))


def _slope(ratios: Tensor, kept: float) -> Tensor:
    """The slope of −log(1 − F) over log μ, through the origin, for ascending ratios `[n]`."""
    n = len(ratios)
    rank = torch.arange(1, n + 1, dtype=torch.float64)
    used = min(int(kept * n), n - 1)
    log_ratio, log_rest = ratios.log()[:used], -torch.log1p(-rank / n)[:used]
    return (log_ratio * log_rest).sum() / log_ratio.square().sum()


def nearest_two(points: Tensor) -> Tensor:
    """Distances of each of the points `[n, d]`, n > 2, to its two nearest others, `[n, 2]` float64 on the CPU.

    In units of the mean distance from their mean. Products find `CANDIDATES`, of which differences find the two.
    """
    points = (points.detach().double() - points.detach().double().mean(0)).float()
    points = points / points.norm(dim=1).mean().clamp_min(1e-30)
    squares = points.square().sum(1)
    found = []
    for start in range(0, len(points), BLOCK):
        rows = points[start : start + BLOCK]
        apart = torch.addmm(squares[None, :], rows, points.T, alpha=-2)  # + ‖row‖², the same for all of a row
        apart[torch.arange(len(rows)), start + torch.arange(len(rows))] = torch.inf
        near = apart.topk(min(CANDIDATES, len(points) - 1), largest=False).indices
        exact = (points[near].double() - rows[:, None].double()).norm(dim=2)
        found.append(exact.topk(2, largest=False).values)
    return torch.cat(found).cpu()


def _ratios(points: Tensor) -> Tensor:
    """μ of each point `[n]` float64, ascending."""
    if len(points) < 3:
        return torch.empty(0, dtype=torch.float64)
    nearest, second = nearest_two(points).T
    ratios = second / nearest.clamp_min(1e-300)
    return ratios[ratios > 1 + 1e-12].sort().values
