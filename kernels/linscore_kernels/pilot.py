"""Where the products are centred, how columns are scaled and which rows are heavy: fixed once, on the first rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .errors import LinscoreError

try:
    import numpy as np
except ImportError:  # torch does without, and so do the kernels
    np = None  # type: ignore[assignment]

# A row is heavy when it lies further than this from the centre, in medians of that distance: attention sinks,
# a few tokens up to a thousand times longer than the rest, which no 16- or 32-bit product survives.
HEAVY_MEDIANS = 20.0  # decisions: Heavy rows by x and by δ

# The pilot reads this many leading rows: few enough to lie in the first sequences whatever the batch size.
PILOT_ROWS = 256  # decisions: Moments about a pilot centre

# Squares of states, summed over a chunk, stay far within float32 where columns spread by 2^-40 to 2^40.
ORDINARY = 40  # decisions: States of any size

# Beyond these powers of two float32, which the centre is kept in, holds few digits or none.
SMALLEST, LARGEST = 2.0**-100, 2.0**120


@dataclass(frozen=True)
class Pilot:
    """Where the products are centred, how columns are scaled, and which rows are heavy: fixed once, stored.

    Examples:
        >>> pilot = linscore_kernels.Pilot.choose(x, y)
        >>> pilot.center_x.shape, bool((y - x).norm(dim=1).max() < pilot.limit_delta)
        (torch.Size([16]), True)
    """

    center_x: Tensor  # [d] float32, median of the pilot rows; 0 where that of 16-bit states is small
    center_delta: Tensor  # [e] float32, likewise; e = d but where a given δ is narrower
    scale_x: Tensor  # [d] float32 powers of two that bring each column near unit size
    scale_delta: Tensor  # [e] float32
    limit_x: float  # rows with ‖x − c_x‖ above are heavy
    limit_delta: float  # rows with ‖δ − c_δ‖ above are heavy

    @staticmethod
    def choose(x: Tensor, y: Tensor | None, delta: Tensor | None = None, rows: Tensor | None = None) -> Pilot | None:
        """Read the pilot off the leading finite rows of `x` and `y` `[n, d]` or `delta` `[n, e]`; None without any.

        `rows` (int64) picks those that count. Raises LinscoreError for states so large or small that float32 could not
        hold their centre.
        """
        other = delta if y is None else y
        assert other is not None
        count = len(x if rows is None else rows)
        # A few more rows than are wanted will do, unless too many of them are not finite.
        for looked_at in (2 * PILOT_ROWS, count):
            lead = slice(looked_at) if rows is None else rows[:looked_at]
            lead_x, lead_other = x[lead], other[lead]
            finite = torch.isfinite(lead_x).all(1) & torch.isfinite(lead_other).all(1)
            found = finite.nonzero()[:PILOT_ROWS, 0]
            if len(found) == PILOT_ROWS:
                break
        if not len(found):
            return None
        x, other = lead_x[found], lead_other[found]
        _check_size(x, other)
        narrow = x.element_size() < 4
        x, other = x.float(), other.float()
        center_x, scale_x, limit_x = _center_scale_limit(x, only_large=narrow)
        delta = other if y is None else other - x
        center_delta, scale_delta, limit_delta = _center_scale_limit(delta, only_large=narrow)
        return Pilot(center_x, center_delta, scale_x, scale_delta, limit_x, limit_delta)

    @staticmethod
    def without_waiting(x: Tensor, y: Tensor) -> Pilot:
        """A pilot of `x` and `y` `[n, d]` for one batch alone: no row is heavy, and nothing waits for the device.

        Columns are centred on the median of the leading rows. They are scaled by the largest of all rows, since no row
        is taken out before it would overflow.
        """
        lead_x, lead_y = x[:PILOT_ROWS].float(), y[:PILOT_ROWS].float()
        centers = lead_x.median(0).values, (lead_y - lead_x).median(0).values
        largest = (x.float() - centers[0]).abs().amax(0), (y.float() - x.float() - centers[1]).abs().amax(0)
        scale_x, scale_delta = (torch.exp2(-torch.log2(_positive(size)).round()) for size in largest)
        center_x, center_delta = centers
        return Pilot(center_x, center_delta, scale_x, scale_delta, limit_x=float("inf"), limit_delta=float("inf"))

    @staticmethod
    def of(centers: Tensor, scales: Tensor, width: int, limit_x: float, limit_delta: float) -> Pilot:
        """The pilot of x of that width whose `centers` and `scales` `[d + e]` these are."""
        pilot = Pilot(centers[:width], centers[width:], scales[:width], scales[width:], limit_x, limit_delta)
        vars(pilot).update(centers=centers, scales=scales)
        return pilot

    @cached_property
    def centers(self) -> Tensor:
        """c_x, c_δ `[d + e]`."""
        return torch.cat([self.center_x, self.center_delta])

    @cached_property
    def scales(self) -> Tensor:
        """Those of x and of δ `[d + e]`."""
        return torch.cat([self.scale_x, self.scale_delta])

    @property
    def width_delta(self) -> int:
        """e: how many columns δ has."""
        return self.center_delta.shape[0]

    @cached_property
    def ordinary(self) -> bool:
        """Whether products in float32 neither overflow nor vanish; else they have to be float64 ones."""
        largest = torch.stack([self.scale_x.amin(), self.scale_delta.amin()])  # of the columns' spreads, inverted
        return bool((largest.log2().abs() <= ORDINARY).all())

    def without_limits(self) -> Pilot:
        """The same centre, no row heavy: for the float64 path that takes the heavy rows themselves."""
        return replace(self, limit_x=float("inf"), limit_delta=float("inf"))

    def to(self, device: torch.device) -> Pilot:
        """A copy on `device`."""
        return replace(
            self,
            center_x=self.center_x.to(device),
            center_delta=self.center_delta.to(device),
            scale_x=self.scale_x.to(device),
            scale_delta=self.scale_delta.to(device),
        )


def _center_scale_limit(rows: Tensor, *, only_large: bool = False) -> tuple[Tensor, Tensor, float]:
    center = _median(rows)
    size = _spread(rows - center)
    if only_large:
        # x − c and δ − c are stored in 16 bits. Where c is large against the spread that loses nothing, c being one of
        # the values itself (Sterbenz); elsewhere it would, and the mean does no harm.
        center = torch.where(center.abs() > 2 * size, center, 0.0)
    scale = torch.exp2(-torch.log2(size).round())
    distance = torch.linalg.vector_norm((rows - center).double(), dim=1).median().item()
    return center, scale, HEAVY_MEDIANS * distance if distance > 0 else float("inf")


def _median(rows: Tensor) -> Tensor:
    """The lower median of each column of finite `rows`."""
    if rows.device.type != "cpu" or np is None:
        return rows.median(0).values
    # NumPy finds it in a quarter of the time: it goes through the columns beside each other.
    middle = (len(rows) - 1) // 2
    return torch.from_numpy(np.partition(rows.detach().numpy(), middle, axis=0)[middle].copy())


def _spread(shifted: Tensor) -> Tensor:
    """The spread of each column about its median."""
    # In bf16 a feature with a large mean moves in steps, so its median deviation may be 0. A 1024th of the largest one
    # then keeps its scaled values far below 32768, past which a row is heavy, and is less than σ even beside a sink.
    size = torch.maximum(_median(shifted.abs()), shifted.abs().amax(0) / 1024)
    return _positive(size)


def _positive(size: Tensor) -> Tensor:
    """Sizes of columns; 1 where a column has none, and not so small that a later row would overflow float16."""
    # Where all columns are small, those limits shrink with them.
    largest = size.amax()
    unit = torch.where(largest > 0, (1024 * largest).clamp(1024 * SMALLEST, 1.0), 1.0)
    return torch.where(size > 0, size, unit).maximum(torch.finfo(torch.float16).tiny * unit)


def _check_size(x: Tensor, other: Tensor) -> None:
    """Raises LinscoreError where float32 cannot hold the finite rows of `x` and of y or δ, `other`."""
    largest_x, largest = x.abs().amax().item(), other.abs().amax().item()
    if not (largest_x == 0 or SMALLEST <= largest_x <= LARGEST) or largest > LARGEST:
        raise LinscoreError(
            f"`x` holds values of up to {largest_x:.0e}, `y` or `delta` up to {largest:.0e}: multiply both by one "
            "power of two that brings them near 1, which changes no score"
        )
