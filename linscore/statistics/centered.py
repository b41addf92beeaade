"""Centred moments of some folds, heavy rows included or not, about their mean or about zero.

C_xx = M_xx − s_x s_xᵀ/n     C_xδ = M_xδ − s_x s_δᵀ/n     t_δ = q_δ − ‖s_δ‖²/n
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from linscore_kernels import SCALARS, Pilot
from linscore_kernels.sums import mirrored
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.statistics.cell import Cell
from linscore.statistics.moments import Moments

# What sums lose to rounding, as a share of t_x: float32 products (of the light rows alone), and float64 sums.
ROUNDING = {"fast": 1e-6, "exact": 1e-12}


@dataclass(frozen=True)
class Centered:
    """The centred moments of one set of rows; all tensors float64. δ may be narrower than x: then y is x + [δ, 0]."""

    n: float
    mean_x: Tensor  # [d]
    mean_delta: Tensor  # [e], e ≤ d
    c_xx: Tensor  # [d, d], symmetric
    c_xd: Tensor  # [d, e]
    t_delta: float
    c_xx_light: Tensor | None = None  # [d, d] of the light rows, where heavy ones are among the rows: see `solve`
    precision: str = "exact"  # of the moments, see `ROUNDING`
    means_taken: int = 1  # degrees of freedom that centring took: 0 where the moments are `uncentred`

    @staticmethod
    def of(cell: Cell, pilot: Pilot, heavy: Cell | None = None) -> Centered:
        """Centre the sums of a cell, and of the heavy rows' cell if there is one, on their own mean."""
        if heavy is not None and heavy.n > 0:
            light = Centered.of(cell, pilot).c_xx if cell.n > 0 else None
            whole = Centered.of(cell.copy().add(heavy), pilot)
            return replace(whole, c_xx_light=light)
        # `linscore_kernels.sums.centre` divides after the product: another last bit, and reports keep theirs.
        n, d = cell.n.item(), len(cell.sum_x)
        return Centered(
            n=n,
            mean_x=cell.sum_x / n + pilot.center_x.double(),
            mean_delta=cell.sum_delta / n + pilot.center_delta.double(),
            c_xx=mirrored(cell.second[:, :d] - torch.outer(cell.sum_x / n, cell.sum_x)),
            c_xd=cell.second[:, d:] - torch.outer(cell.sum_x / n, cell.sum_delta),
            t_delta=(cell.scalars[SCALARS.index("q_delta")] - cell.sum_delta @ cell.sum_delta / n).item(),
        )

    @property
    def t_x(self) -> float:
        """‖X_c‖²."""
        return self.c_xx.trace().item()

    @property
    def t_y(self) -> float:
        """‖Y_c‖² for y = x + δ; 0 where y is a constant, up to the rounding of the sums."""
        total = self.t_x + 2 * self.c_xd.trace().item() + self.t_delta
        light = self.t_x if self.c_xx_light is None else self.c_xx_light.trace().item()
        noise = ROUNDING["exact"] * self.t_x + ROUNDING[self.precision] * light
        return total if total > noise else 0.0

    @property
    def directions(self) -> int:
        """How many directions the rows can span."""
        return int(self.n) - self.means_taken

    @property
    def c_xy(self) -> Tensor:
        """X_cᵀ Y_c, for δ as wide as x."""
        return self.c_xx + self.c_xd


def uncentred(cell: Cell, pilot: Pilot, heavy: Cell | None = None) -> Centered:
    """The same record about zero, for maps without a constant: Σxxᵀ, Σxδᵀ, Σ‖δ‖², and means of zero."""
    whole = Centered.of(_about_zero(cell, pilot), pilot, heavy and _about_zero(heavy, pilot))
    zero_x, zero_delta = torch.zeros_like(whole.mean_x), torch.zeros_like(whole.mean_delta)
    return replace(whole, mean_x=zero_x, mean_delta=zero_delta, means_taken=0)


def _about_zero(cell: Cell, pilot: Pilot) -> Cell:
    """The sums about zero, with Σx and Σδ taken for zero, so that nothing centres them."""
    raw = cell.moved_origin(pilot.center_x.double(), pilot.center_delta.double())
    return replace(raw, sum_x=torch.zeros_like(raw.sum_x), sum_delta=torch.zeros_like(raw.sum_delta))


def centered(moments: Moments, folds: Iterable[int], *, heavy: bool = True, intercept: bool = True) -> Centered:
    """The moments of some folds, with or without their heavy rows, about their mean or (no intercept) about zero.

    Raises:
        LinscoreError: without a pilot, or where the sums have overflowed.
    """
    folds = list(folds)
    if moments.pilot is None:
        raise LinscoreError("no finite row was added to these moments yet")
    form = Centered.of if intercept else uncentred
    found = form(moments.light_cell(folds), moments.pilot, moments.heavy_cell(folds) if heavy else None)
    if not (math.isfinite(found.t_x) and math.isfinite(found.t_delta)) and found.n:
        raise LinscoreError("the sums of these moments have overflowed: divide x and y by one large power of two")
    return replace(found, precision=moments.precision)


def splits(moments: Moments, *, heavy: bool = True, intercept: bool = True) -> Iterator[tuple[Centered, Centered]]:
    """(all other folds, one fold) for each fold in turn; nothing where there is only one fold with rows."""
    filled = [fold for fold in range(moments.folds) if moments.rows(fold)]
    if len(filled) == 2:  # each is all that the other is not
        one, two = (centered(moments, [fold], heavy=heavy, intercept=intercept) for fold in filled)
        yield from ((two, one), (one, two))
        return
    for fold in filled if len(filled) > 1 else ():
        others = [other for other in filled if other != fold]
        training, test = (centered(moments, part, heavy=heavy, intercept=intercept) for part in (others, [fold]))
        yield training, test
