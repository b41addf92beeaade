"""What one pass over a batch of tokens leaves behind: the types that both backends share.

For the rows x (entering a block), y (leaving it) and δ = y − x, taken about a fixed pilot centre (c_x, c_δ):

    second = [ Σ x̂x̂ᵀ | Σ x̂δ̂ᵀ ]      x̂ = x − c_x,  δ̂ = δ − c_δ      [d, 2d], of the left half the upper triangle

A given δ may be narrower than x, of width e ≤ d: then `second` is [d, d + e], and where a figure needs y = x + δ, δ
counts as zero beyond its width.

Centring on the true mean later is a rank-1 correction, and small, because the pilot centre is close to the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

LIGHT, HEAVY, NONFINITE = 0, 1, 2

# A row is heavy when it lies further than this from the centre, in medians of that distance: attention sinks,
# a few tokens up to a thousand times longer than the rest, which no 16- or 32-bit product survives.
HEAVY_MEDIANS = 20.0
# The pilot reads this many leading rows: few enough to lie in the first sequences whatever the batch size.
PILOT_ROWS = 256

# What the pass over the tokens reads off each row: ‖x‖, ‖y‖, ‖δ‖, ‖δ − c_δ‖², and Σ ulp(y)²/12, the noise that storing
# y in 16 bits adds to δ.
FIGURES = ("norm_x", "norm_y", "norm_delta", "q_delta", "rounding")
# The figures whose sums over the rows are kept, in this order.
SCALARS = (
    "q_delta",
    "block_influence",
    "angular_distance",
    "delta_ratio",
    "norm_x",
    "norm_y",
    "norm_delta",
    "rounding",
)


@dataclass(frozen=True)
class Pilot:
    """Where the products are centred, how columns are scaled, and which rows are heavy: fixed once, stored."""

    center_x: Tensor  # [d] float32, median of the pilot rows; 0 where that of 16-bit states is small
    center_delta: Tensor  # [e] float32, likewise; e = d but where a given δ is narrower
    scale_x: Tensor  # [d] float32 powers of two that bring each column near unit size
    scale_delta: Tensor  # [e] float32
    limit_x: float  # rows with ‖x − c_x‖ above are heavy
    limit_delta: float  # rows with ‖δ − c_δ‖ above are heavy

    @staticmethod
    def choose(x: Tensor, y: Tensor | None, delta: Tensor | None = None) -> Pilot | None:
        """Read the pilot off the leading finite rows of `x` and `y` `[n, d]` or `delta` `[n, e]`; None without any."""
        other = delta if y is None else y
        assert other is not None
        # A few more rows than are wanted will do, unless too many of them are not finite.
        for looked_at in (2 * PILOT_ROWS, len(x)):
            finite = torch.isfinite(x[:looked_at]).all(1) & torch.isfinite(other[:looked_at]).all(1)
            rows = finite.nonzero()[:PILOT_ROWS, 0]
            if len(rows) == PILOT_ROWS:
                break
        if not len(rows):
            return None
        narrow = x.element_size() < 4
        x, other = x[rows].float(), other[rows].float()
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

    @property
    def width_delta(self) -> int:
        """e: how many columns δ has."""
        return len(self.center_delta)

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
    center = rows.median(0).values
    size = _spread(rows - center)
    if only_large:
        # x − c and δ − c are stored in 16 bits. Where c is large against the spread that loses nothing, c being one of
        # the values itself (Sterbenz); elsewhere it would, and the mean does no harm.
        center = torch.where(center.abs() > 2 * size, center, 0.0)
    scale = torch.exp2(-torch.log2(size).round())
    distance = torch.linalg.vector_norm((rows - center).double(), dim=1).median().item()
    return center, scale, HEAVY_MEDIANS * distance if distance > 0 else float("inf")


def _spread(shifted: Tensor) -> Tensor:
    """The spread of each column about its median."""
    # In bf16 a feature with a large mean moves in steps, so its median deviation may be 0. A 1024th of the largest one
    # then keeps its scaled values far below 32768, past which a row is heavy, and is less than σ even beside a sink.
    size = torch.maximum(shifted.abs().median(0).values, shifted.abs().amax(0) / 1024)
    return _positive(size)


def _positive(size: Tensor) -> Tensor:
    """Sizes of columns, 1 where a column has none."""
    return torch.where(size > 0, size, 1.0).clamp_min(torch.finfo(torch.float16).tiny)


class TokenStats(NamedTuple):
    """The operands of the products and the per-token figures of `n` rows; operands of rows that are not light are 0."""

    operands: Tensor  # [2, ≥ n, ≥ d] x̂ and δ̂, or [4, …] x_hi, x_lo, δ_hi, δ_lo; zero beyond [n, d]
    figures: Tensor  # [5, n] float32 or float64, in the order of FIGURES
    status: Tensor  # [n] uint8: LIGHT, HEAVY or NONFINITE
    sums: Tensor  # [2, d] float64 over light rows: Σ(x − c_x), Σ(δ − c_δ); zero beyond the width of δ


class Sums(NamedTuple):
    """Everything additive about some rows except their second moments."""

    n: Tensor  # [] float64, light rows
    sum_x: Tensor  # [d] float64
    sum_delta: Tensor  # [e] float64
    scalars: Tensor  # [len(SCALARS)] float64
    status: Tensor  # [n] uint8


def reduce(stats: TokenStats, width_delta: int) -> Sums:
    """Sum the per-token figures over the light rows, of a δ of `width_delta` columns.

    1 − cos(x, y) is computed as (‖δ‖² − (‖y‖ − ‖x‖)²) / 2‖x‖‖y‖, which keeps its digits where x and y are nearly
    parallel; the angular distance is arccos/π through the half-angle, for the same reason. A pair with a zero
    vector counts as orthogonal.
    """
    light = stats.status == LIGHT
    norm_x, norm_y, norm_delta, q_delta, rounding = stats.figures.double()
    product = norm_x * norm_y
    influence = (norm_delta.square() - (norm_y - norm_x).square()) / (2 * product)
    influence = torch.where(product > 0, influence, 1.0).clamp(0.0, 2.0)
    angle = 2 / torch.pi * torch.asin((influence / 2).sqrt())
    ratio = torch.where(norm_x > 0, norm_delta / norm_x, 0.0)
    columns = torch.stack([q_delta, influence, angle, ratio, norm_x, norm_y, norm_delta, rounding])
    scalars = torch.where(light, columns, 0.0).sum(1)
    # Copies, because what an operator returns may not share memory.
    return Sums(light.sum().double(), stats.sums[0].clone(), stats.sums[1, :width_delta].clone(), scalars, stats.status)


def add_up(parts: list[Sums]) -> Sums:
    """The sums of several chunks as one."""
    n, sum_x, sum_delta, scalars = (torch.stack([part[i] for part in parts]).sum(0) for i in range(4))
    return Sums(n, sum_x, sum_delta, scalars, torch.cat([part.status for part in parts]))


def check_arguments(
    x: Tensor,
    other: Tensor,
    rows: Tensor | None,
    precision: str,
    dtypes: tuple[torch.dtype, ...],
    width_delta: int | None = None,
) -> None:
    """What both backends ask of x and of y or δ, `other`; raises ValueError that says what to do.

    `width_delta` is the width of a given δ, where it may be narrower than x.
    """
    if precision not in ("fast", "exact"):
        raise ValueError(f'precision must be "fast" or "exact", not {precision!r}')
    for name, tensor in (("x", x), ("y or delta", other)):
        if tensor.dtype not in dtypes:
            raise ValueError(f"{name} is {tensor.dtype}: convert it to {' or '.join(map(str, dtypes))}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} and x on {x.device}; move one of them")
    _check_shapes(x, other, width_delta)
    if not len(x) or (rows is not None and not len(rows)):
        raise ValueError("no rows: skip empty batches")
    if rows is not None and (rows.dtype is not torch.int64 or rows.ndim != 1 or rows.device != x.device):
        raise ValueError(f"rows must be a vector of int64 indices on {x.device}, not {rows.dtype} on {rows.device}")


def _check_shapes(x: Tensor, other: Tensor, width_delta: int | None) -> None:
    narrower = width_delta is not None and x.ndim == 2 and width_delta < x.shape[1]
    if x.ndim != 2 or other.shape != (len(x), width_delta if narrower else x.shape[1]):
        wanted = f"delta must be [n, {width_delta}], as wide as the pilot's" if narrower else "both must be [n, d]"
        raise ValueError(f"y or delta has shape {tuple(other.shape)} beside x {tuple(x.shape)}; {wanted}")


def check_pilot(x: Tensor, pilot: Pilot, delta_given: bool) -> None:
    """Raises ValueError unless the pilot has the width and the device of `x`, and of δ at most where δ is given."""
    if pilot.center_x.shape != x.shape[1:] or pilot.center_x.device != x.device:
        where = f"{tuple(pilot.center_x.shape)} on {pilot.center_x.device}"
        raise ValueError(f"the pilot's centre is {where}; choose it from rows of x and move it with pilot.to(x.device)")
    if pilot.width_delta != x.shape[1] and not (delta_given and pilot.width_delta < x.shape[1]):
        widths = f"{pilot.width_delta} columns of δ and x {x.shape[1]}"
        raise ValueError(f"the pilot has {widths}: only a given delta may have fewer")


def check_map(x: Tensor, b: Tensor, mean_x: Tensor, mean_delta: Tensor) -> None:
    """Raises ValueError unless B and both means have the width of `x`."""
    d = x.shape[1]
    if b.shape != (d, d) or not mean_x.shape == mean_delta.shape == (d,):
        shapes = ", ".join(str(list(t.shape)) for t in (b, mean_x, mean_delta))
        raise ValueError(f"b must be [{d}, {d}] and mean_x and mean_delta [{d}], as x is wide, not {shapes}")


def check_second(x: Tensor, second: Tensor, width_delta: int) -> None:
    """Raises ValueError unless `second` can take the second moments of `x` and a δ of `width_delta` columns."""
    shape = (x.shape[1], x.shape[1] + width_delta)
    if second.shape != shape or second.dtype is not torch.float64 or second.stride(1) != 1:
        raise ValueError(f"second must be {list(shape)} float64 with contiguous rows, not {tuple(second.shape)}")
    if second.device != x.device:
        raise ValueError(f"second is on {second.device} and x on {x.device}; move one of them")
