"""Additive second moments of one block, kept by fold, with the heavy rows apart.

δ = y − x is formed first, per element, never as the difference of two Grams: in a trained decoder it is 1 to 10 % of x.
The sums are float64 about a pilot centre that the first rows fix, so they add up over batches, folds, processes and
files. Rows far from the centre (attention sinks) are summed apart, as float64 products (decisions: Heavy
rows by x and by δ).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from linscore_kernels import Pilot, choose_backend
from linscore_kernels.arguments import check_sign
from linscore_kernels.given import Given, as_rows
from linscore_kernels.second_moments.heavy_rows import accumulate_apart, accumulate_holding, can_hold
from torch import Tensor

from linscore.errors import LinscoreError, at_least, one_of, whole
from linscore.options.score import MOST_FOLDS
from linscore.statistics.cell import Cell, ordinary_tensors
from linscore.statistics.moments_state import facts_of, load, tensors_of
from linscore.statistics.update import Update

if TYPE_CHECKING:
    from linscore_kernels.second_moments.held_rows import HeldRows

    from linscore.statistics.figures import BlockMetrics

PRECISIONS = ("fast", "exact")


class Moments:
    """Moments of pairs (x, y) or (x, δ) of width `d`, for hooks that have blocks and people who have tensors.

    Args:
        d: width of x and y.
        width_delta: width e ≤ d of δ, by default d. A narrower δ is always given, never y; per-token figures, which
            compare x with y, count it as zero beyond its width.
        folds: cross-validation folds; each keeps 8·d·(d + e) bytes, and as much again once it has met a heavy row.
        precision: "fast" (16- or 32-bit products, float32 sums over a chunk, float64 across chunks) or "exact".
        backend: "triton" or "eager"; by default $LINSCORE_BACKEND, else what fits the device.
        device: where the sums live and where they are computed.

    Raises:
        LinscoreError: for a width, number of folds, precision or backend that cannot be.

    Examples:
        >>> moments = linscore.Moments(d=16, folds=2)
        >>> status = moments.update(x[:300], y[:300], fold=0)
        >>> status = moments.update(x[300:], delta=y[300:] - x[300:], fold=1)  # of each row: light, heavy or not finite
        >>> moments.rows(0), moments.rows(1)
        (300, 300)
    """

    def __init__(
        self,
        d: int,
        width_delta: int | None = None,
        *,
        folds: int = 1,
        precision: str = "fast",
        backend: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        whole("d", d, 1)
        whole("folds", folds, 1, MOST_FOLDS)
        at_least("width_delta", width_delta, 1, d)
        width_delta = d if width_delta is None else width_delta
        one_of("precision", precision, PRECISIONS)
        if backend is not None:
            choose_backend(device, backend)  # refuses one that cannot run there
        self._wanted = backend
        self.d, self.width_delta, self.folds = d, width_delta, folds
        self.precision, self.device = precision, torch.device(device)
        self.pilot: Pilot | None = None
        self.light: list[Cell | None] = [None] * folds
        self.heavy: list[Cell | None] = [None] * folds

    @property
    def backend(self) -> str:
        """Which backend computes updates on this device, "triton" or "eager"."""
        return choose_backend(self.device, self._wanted)

    def update(
        self,
        x: Any,
        y: Any = None,
        mask: Any = None,
        *,
        delta: Any = None,
        fold: int = 0,
        rows: Any = None,
        sign: int = 1,
    ) -> Tensor:
        """Add the rows of `x` and `y`, or of `x` and a given `delta`, of which no gradient is asked.

        Args:
            x: `[..., d]` of torch, NumPy or anything with `__dlpack__`, any float dtype (float64 stays exact), strides
                and device; what each costs is in docs/python.md.
            y: the same shape.
            mask: the leading shape, bool or 0 and 1: which rows count. Those that do not may hold anything.
            delta: `[..., width_delta]`, in place of y.
            fold: that the rows are added to.
            rows: in place of a mask, indices of the flattened rows, or bool `[n]`.
            sign: −1 takes back rows that an earlier call had added.

        Returns:
            uint8 of the leading shape, or of each row that is picked: LIGHT, HEAVY or NONFINITE of `linscore_kernels`.
            Rows with a NaN or an infinity are left out.

        Raises:
            LinscoreError: for shapes that do not fit, a fold that is not there, a sign other than 1 and −1, or values
                that float32 cannot hold.
        """
        given = self._given(x, y, delta, fold, mask=mask, rows=rows)
        return self._begin(given, fold, sign, hold=False).status.view(given.shape)

    def begin(
        self,
        x: Any,
        y: Any = None,
        mask: Any = None,
        *,
        delta: Any = None,
        fold: int = 0,
        rows: Any = None,
        sign: int = 1,
        hold: bool = True,
    ) -> Update:
        """`update`, whose heavy rows are held where that spares a wait for the device.

        They are added when `settle` of what is returned is told their number, which a caller reads of many updates at
        once, or are given to `update` once more where they were too many to be held. The first rows are waited for.
        """
        return self._begin(self._given(x, y, delta, fold, mask=mask, rows=rows), fold, sign, hold)

    @ordinary_tensors()
    def _begin(self, given: Given, fold: int, sign: int, hold: bool) -> Update:
        check_sign(sign)
        x, y, delta, rows, _ = given
        if self.pilot is None and given.n:
            self.pilot = Pilot.choose(x, y, delta, rows)
        if self.pilot is None or not given.n:  # no row, or not one finite row so far
            return Update.of_no_row(given.n, self.device)
        pilot = self.pilot
        double, backend = x.dtype is torch.float64, self.backend
        precision = "exact" if double else self.precision
        cell = self._cell(self.light, fold)
        operands = (x, y, delta, cell.second)
        if hold and can_hold(x, pilot, backend):
            light, held = accumulate_holding(*operands, pilot=pilot, rows=rows, precision=precision, sign=sign)
            cell.add_sums(light, sign)
            return Update(light.status, light.apart, held.room, partial(self._add_held, held, fold))
        light, heavy = accumulate_apart(
            *operands,
            lambda: self._cell(self.heavy, fold).second,
            pilot=pilot,
            rows=rows,
            precision=precision,
            sign=sign,
            backend="eager" if double else backend,
        )
        cell.add_sums(light, sign)
        if heavy is not None:
            self._cell(self.heavy, fold).add_sums(heavy, sign)
        return Update(light.status, light.apart)

    def _add_held(self, held: HeldRows, fold: int, count: int) -> None:
        cell = self._cell(self.heavy, fold)
        cell.add_sums(held.add_to(cell.second, count), held.sign)

    @ordinary_tensors()
    def merge(self, other: Moments) -> Moments:
        """Add the moments of other rows of the same block, in place; returns self.

        Two runs have two pilots: the other's sums are moved to this one's centre, exactly, in float64.
        """
        if (self.d, self.width_delta, self.folds) != (other.d, other.width_delta, other.folds):
            theirs, mine = (f"width {m.d} (δ: {m.width_delta}) in {m.folds} folds" for m in (other, self))
            raise LinscoreError(
                f"moments of {theirs} do not add to {mine}: collect both with the same model and the same folds"
            )
        if other.pilot is None:
            return self
        pilot = other.pilot.to(self.device)
        self.pilot = self.pilot or pilot
        a = pilot.center_x.double() - self.pilot.center_x.double()
        b = pilot.center_delta.double() - self.pilot.center_delta.double()
        for cells, others in ((self.light, other.light), (self.heavy, other.heavy)):
            for fold, cell in enumerate(others):
                if cell is not None:
                    self._cell(cells, fold).add(cell.to(self.device).moved_origin(a, b))
        return self

    @ordinary_tensors()
    def to(self, device: torch.device | str) -> Moments:
        """Move everything to `device`, where later updates are computed; returns self.

        A backend that was named stays; by default it is again what fits the device.

        Raises:
            LinscoreError: where the backend that was named cannot run on `device`; nothing is moved then.
        """
        choose_backend(device, self._wanted)
        self.device = torch.device(device)
        self.pilot = self.pilot and self.pilot.to(self.device)
        self.light, self.heavy = ([cell and cell.to(device) for cell in cells] for cells in (self.light, self.heavy))
        return self

    def on(self, device: torch.device | str) -> Moments:
        """Themselves where they are on `device`, else a copy there."""
        if torch.device(device) == self.device:
            return self
        there = copy.copy(self)
        return there.to(device)

    def compute(self) -> BlockMetrics:
        """Every figure of the rows so far, as `block_metrics` gives them; what is added later adds on."""
        from linscore.statistics.figures import block_metrics  # which begins with moments

        return block_metrics(self)

    def reset(self) -> None:
        """Forget all rows, and the pilot that the first of them fixed."""
        self.pilot = None
        self.light, self.heavy = [None] * self.folds, [None] * self.folds

    @ordinary_tensors()
    def state_dict(self) -> dict[str, Any]:
        """All of them for a checkpoint: copies of tensors, and numbers, strings and None."""
        return facts_of(self) | {name: tensor.clone() for name, tensor in tensors_of(self).items()}

    @ordinary_tensors()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, on this device.

        Raises:
            LinscoreError: where that is of another width, number of folds or precision, or damaged; nothing is changed
                then.
        """
        load(self, state)

    def light_cell(self, folds: Iterable[int]) -> Cell:
        """The sums over the light rows of some folds."""
        return _pool(self.light[fold] for fold in folds) or Cell.zeros(self.d, self.width_delta, self.device)

    def heavy_cell(self, folds: Iterable[int]) -> Cell | None:
        """The sums over the heavy rows of some folds, if there were any."""
        return _pool(self.heavy[fold] for fold in folds)

    def total(self) -> Cell:
        """The sums over all rows."""
        light, heavy = self.light_cell(range(self.folds)), self.heavy_cell(range(self.folds))
        return light if heavy is None else light.add(heavy)

    def rows(self, fold: int) -> int:
        """How many rows a fold holds, heavy ones included."""
        return sum(int(cell.n.item()) for cell in (self.light[fold], self.heavy[fold]) if cell is not None)

    @property
    def heavy_rows(self) -> int:
        """How many rows were summed apart."""
        return sum(int(cell.n.item()) for cell in self.heavy if cell is not None)

    def _cell(self, cells: list[Cell | None], fold: int) -> Cell:
        cell = cells[fold]
        if cell is None:
            cell = cells[fold] = Cell.zeros(self.d, self.width_delta, self.device)
        return cell

    def _given(self, x: Any, y: Any, delta: Any, fold: int, **picked: Any) -> Given:
        """What is to be added to a fold, as rows on the device of the sums."""
        whole("fold", fold, 0)
        if fold >= self.folds:
            raise LinscoreError(f"fold {fold} is not there: these moments have folds 0 to {self.folds - 1}")
        if y is not None and self.width_delta < self.d:
            raise LinscoreError(f"δ has {self.width_delta} columns here and `x` {self.d}: give `delta` in place of `y`")
        given = as_rows(x, y, delta, device=self.device, **picked)
        width, width_delta = given.x.shape[1], (given.x if given.delta is None else given.delta).shape[1]
        if width != self.d or (delta is not None and width_delta != self.width_delta):
            wanted = f"[..., {self.d}]" + ("" if delta is None else f" and `delta` [..., {self.width_delta}]")
            raise LinscoreError(f"`x` is [..., {width}] and δ [..., {width_delta}]: give `x` {wanted} to these moments")
        return given


def _pool(cells: Iterable[Cell | None]) -> Cell | None:
    """The sum of some cells, which stay as they are."""
    total: Cell | None = None
    for cell in cells:
        if cell is not None:
            total = cell.copy() if total is None else total.add(cell)
    return total
