"""For torchmetrics: the linearity of a block as a metric of a training loop. Needs `linscore[torchmetrics]`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from linscore_kernels import SCALARS, Pilot
from torch import Tensor
from torchmetrics import Metric

from linscore.errors import one_of
from linscore.statistics.cell import Cell, ordinary_tensors
from linscore.statistics.figures import BlockMetrics
from linscore.statistics.moments import Moments
from linscore.statistics.moments_head import PILOT

__all__ = ["BlockLinearity"]

FIGURES = tuple(field.name for field in fields(BlockMetrics) if "float" in str(field.type))
KINDS = ("light", "heavy")


class BlockLinearity(Metric):
    """One figure of a block over all rows so far, by default its linearity (paper: section 3.1).

        metric = BlockLinearity(d=768)
        metric(x, y, mask)  # of this batch; or metric.update(x, y, mask)
        metric.compute()  # of all batches and processes

    The state is one float64 tensor, `sums`, of about 32·d²·folds bytes; torchmetrics holds it two or three times.
    Processes and batches are merged exactly, each about its own pilot, and so the figure is that of `Moments.merge`.

    Args:
        d: width of x and y.
        figure: a name of `BlockMetrics`, such as "linearity_no_residual" or "block_influence"; metrics of one
            MetricCollection that differ in nothing else share their state.
        folds: held-out figures need two; `update` says which one a batch goes to.
        precision: "fast" or "exact" (see `Moments`); float64 is exact in any case.
        backend: "triton" or "eager"; by default what fits the device.
        options: those of `torchmetrics.Metric`.

    Raises:
        LinscoreError: for a figure that is not there, and as `Moments`.

    Examples:
        >>> from linscore.torchmetrics import BlockLinearity
        >>> metric = BlockLinearity(d=16, figure="linearity_no_residual")
        >>> metric.update(x[:200], y[:200])
        >>> metric.update(x[200:], y[200:])
        >>> abs(float(metric.compute()) - linscore.linearity(x, y).linearity_no_residual) < 1e-5
        True
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor

    def __init__(
        self,
        d: int,
        *,
        figure: str = "linearity",
        folds: int = 1,
        precision: str = "fast",
        backend: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        one_of("figure", figure, FIGURES)
        self.d, self.figure = d, figure
        self._form: dict[str, Any] = {"folds": folds, "precision": precision, "backend": backend}
        Moments(d, **self._form)  # refuses what cannot be
        self.add_state("sums", torch.zeros(_size(d, folds), dtype=torch.float64), partial(_merged, d, self._form))

    def update(self, x: Any, y: Any, mask: Any = None, fold: int = 0) -> None:
        """Add the rows of `x` and `y` `[..., d]` that `mask` sets, as `Moments.update` takes them."""
        self._own_sums()
        moments = self.moments
        moments.update(x, y, mask, fold=fold)
        _keep_pilot(self.sums, moments)

    def compute(self) -> Tensor:
        """The figure of all rows so far, `[]` float64; NaN where it is not defined, as of fewer than two rows."""
        moments = self.moments
        if sum(map(moments.rows, range(moments.folds))) < 2:
            return self.sums.new_tensor(math.nan)
        found = getattr(moments.compute(), self.figure)
        return self.sums.new_tensor(math.nan if found is None else found)

    @property
    def moments(self) -> Moments:
        """The sums as `Moments`, for every other figure and for maps; in the memory of the state."""
        return _moments(self.sums, self.d, self._form)

    def set_dtype(self, dst_type: str | torch.dtype) -> BlockLinearity:  # noqa: ARG002
        """Nothing changes: sums are float64."""
        return self

    @ordinary_tensors()
    def _own_sums(self) -> None:
        """A state that was reset in inference mode could not be added to outside of it."""
        if self.sums.is_inference():
            self.sums = self.sums.clone()


def _size(d: int, folds: int) -> int:
    return 2 * folds * (2 * d**2 + 2 * d + 1 + len(SCALARS)) + 4 * d + 3


def _parts(sums: Tensor, d: int, folds: int) -> Iterator[Tensor]:
    """Views of the state: the cells, and the pilot's tensors, its limits and whether there is one."""
    cell = (2 * d**2, d, d, 1, len(SCALARS))  # second first: products are added to it
    return iter(sums.split([*cell * (2 * folds), *[d] * len(PILOT), 2, 1]))


def _moments(sums: Tensor, d: int, form: dict[str, Any]) -> Moments:
    """Moments whose cells lie in a state, and whose pilot is a copy of that in it."""
    moments = Moments(d, **form, device=sums.device)
    parts = _parts(sums, d, moments.folds)
    for kind in KINDS:
        cells: list[Cell | None] = []
        for _ in range(moments.folds):
            second, sum_x, sum_delta, n, scalars = (next(parts) for _ in range(5))
            cells.append(Cell(n.view(()), sum_x, sum_delta, second.view(d, 2 * d), scalars))
        setattr(moments, kind, cells)
    centers = {name: next(parts).float() for name in PILOT}
    limits, there = next(parts).tolist(), bool(next(parts))
    moments.pilot = Pilot(**centers, limit_x=limits[0], limit_delta=limits[1]) if there else None
    return moments


def _keep_pilot(sums: Tensor, moments: Moments) -> None:
    *_, center_x, center_delta, scale_x, scale_delta, limits, there = _parts(sums, moments.d, moments.folds)
    if moments.pilot is None or there:
        return
    for name, place in zip(PILOT, (center_x, center_delta, scale_x, scale_delta), strict=True):
        place.copy_(getattr(moments.pilot, name))
    limits.copy_(limits.new_tensor([moments.pilot.limit_x, moments.pilot.limit_delta]))
    there.fill_(1)


@ordinary_tensors()
def _merged(d: int, form: dict[str, Any], states: Tensor) -> Tensor:
    """The states `[k, …]` of several processes as one, about the pilot of the first that has one."""
    whole = torch.zeros_like(states[0])
    total = _moments(whole, d, form)
    for state in states:
        total.merge(_moments(state, d, form))
    _keep_pilot(whole, total)
    return whole
