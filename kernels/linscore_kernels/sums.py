"""What one pass over a batch of tokens leaves behind: the types that both backends share.

For the rows x (entering a block), y (leaving it) and δ = y − x, taken about a fixed pilot centre (c_x, c_δ):

    second = [ Σ x̂x̂ᵀ | Σ x̂δ̂ᵀ ]      x̂ = x − c_x,  δ̂ = δ − c_δ      [d, 2d], of the left half the upper triangle

A given δ may be narrower than x, of width e ≤ d: then `second` is [d, d + e], and where a figure needs y = x + δ, δ
counts as zero beyond its width.

Centring on the true mean later is a rank-1 correction, and small, because the pilot centre is close to the mean.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LIGHT = 0
"""Status of a row near the pilot's centre, which is multiplied in 16 or 32 bits.

Examples:
    >>> pilot = linscore_kernels.Pilot.choose(x, y)
    >>> stats = linscore_kernels.token_stats(x, y, pilot=pilot)
    >>> int((stats.status == linscore_kernels.LIGHT).sum())
    600
"""
HEAVY = 1
"""Status of a row 20 medians out in x or δ, which is summed apart.

Examples:
    >>> sink = torch.cat([x, 1000 * x[:1]])
    >>> pilot = linscore_kernels.Pilot.choose(x, y)
    >>> stats = linscore_kernels.token_stats(sink, delta=torch.zeros_like(sink), pilot=pilot)
    >>> int((stats.status == linscore_kernels.HEAVY).sum())
    1
"""
NONFINITE = 2
"""Status of a row that holds a NaN or an infinity, which is left out.

Examples:
    >>> torn = torch.cat([x, torch.full((1, 16), float("nan"))])
    >>> stats = linscore_kernels.token_stats(torn, delta=torn, pilot=linscore_kernels.Pilot.choose(x, y))
    >>> int((stats.status == linscore_kernels.NONFINITE).sum())
    1
"""

FIGURES = ("norm_x", "norm_y", "norm_delta", "q_delta", "rounding")
"""What the pass over the tokens reads off each row: ‖x‖, ‖y‖, ‖δ‖, ‖δ − c_δ‖², and Σ ulp(y)²/12, the noise that storing
y in 16 bits adds to δ.

Examples:
    >>> stats = linscore_kernels.token_stats(x, y, pilot=linscore_kernels.Pilot.choose(x, y))
    >>> norm_x = stats.figures[linscore_kernels.FIGURES.index("norm_x")]
    >>> torch.allclose(norm_x, x.norm(dim=1))
    True
"""

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
"""The figures whose sums over the rows are kept, in this order.

Examples:
    >>> second = torch.zeros(16, 32, dtype=torch.float64)
    >>> sums = linscore_kernels.accumulate(x, y, None, second, pilot=linscore_kernels.Pilot.choose(x, y))
    >>> norm_delta = sums.totals[linscore_kernels.SCALARS.index("norm_delta")]
    >>> torch.allclose(norm_delta.float(), (y - x).norm(dim=1).sum())
    True
"""


class TokenStats(NamedTuple):
    """The operands of the products and the per-token figures of `n` rows; operands of rows that are not light are 0.

    Examples:
        >>> stats = linscore_kernels.token_stats(x, y, pilot=linscore_kernels.Pilot.choose(x, y))
        >>> stats.figures.shape, stats.status.dtype
        (torch.Size([5, 600]), torch.uint8)
    """

    operands: Tensor  # [2, ≥ n, ≥ d] x̂ and δ̂, or [4, …] x_hi, x_lo, δ_hi, δ_lo; zero beyond [n, d]
    figures: Tensor  # [5, n] float32 or float64, in the order of FIGURES
    status: Tensor  # [n] uint8: LIGHT, HEAVY or NONFINITE
    sums: Tensor  # [2, d] float64 over light rows: Σ(x − c_x), Σ(δ − c_δ); zero beyond the width of δ


class Sums(NamedTuple):
    """Everything additive about some rows except their second moments.

    Examples:
        >>> second = torch.zeros(16, 32, dtype=torch.float64)
        >>> sums = linscore_kernels.accumulate(x, y, None, second, pilot=linscore_kernels.Pilot.choose(x, y))
        >>> int(sums.n), sums.columns.shape
        (600, torch.Size([2, 16]))
    """

    columns: Tensor  # [2, d] float64 over light rows: Σ(x − c_x), Σ(δ − c_δ); zero beyond the width of δ
    totals: Tensor  # [len(SCALARS) + 3] float64: the sums of SCALARS, and how many rows are light, heavy, non-finite
    status: Tensor  # [n] uint8
    width_delta: int  # e

    @property
    def n(self) -> Tensor:
        """[] float64, light rows."""
        return self.totals[len(SCALARS) + LIGHT]

    @property
    def sum_x(self) -> Tensor:
        """[d] float64."""
        return self.columns[0]

    @property
    def sum_delta(self) -> Tensor:
        """[e] float64."""
        return self.columns[1, : self.width_delta]

    @property
    def scalars(self) -> Tensor:
        """[len(SCALARS)] float64."""
        return self.totals[: len(SCALARS)]

    @property
    def apart(self) -> Tensor:
        """[2] float64: how many rows are heavy, and how many not finite."""
        return self.totals[len(SCALARS) + HEAVY :]


def reduce(stats: TokenStats, width_delta: int) -> Sums:
    """Sum the per-token figures over the light rows, of a δ of `width_delta` columns.

    1 − cos(x, y) is computed as (‖δ‖² − (‖y‖ − ‖x‖)²) / 2‖x‖‖y‖, which keeps its digits where x and y are nearly
    parallel; the angular distance is arccos/π through the half-angle, for the same reason. A pair with a zero
    vector counts as orthogonal.
    """
    kinds = torch.arange(3, dtype=torch.uint8, device=stats.status.device)[:, None] == stats.status
    norm_x, norm_y, norm_delta, q_delta, rounding = stats.figures.double()
    product = norm_x * norm_y
    influence = (norm_delta.square() - (norm_y - norm_x).square()) / (2 * product)
    influence = torch.where(product > 0, influence, 1.0).clamp(0.0, 2.0)
    angle = 2 / torch.pi * torch.asin((influence / 2).sqrt())
    ratio = torch.where(norm_x > 0, norm_delta / norm_x, 0.0)
    columns = torch.stack([q_delta, influence, angle, ratio, norm_x, norm_y, norm_delta, rounding])
    scalars = torch.where(kinds[LIGHT], columns, 0.0).sum(1)
    return Sums(stats.sums, torch.cat([scalars, kinds.sum(1).double()]), stats.status, width_delta)


def add_up(parts: list[Sums]) -> Sums:
    """The sums of several chunks as one."""
    if len(parts) == 1:
        return parts[0]
    columns, totals, statuses, widths = zip(*parts, strict=True)
    return Sums(torch.stack(columns).sum(0), torch.stack(totals).sum(0), torch.cat(statuses), widths[0])


def centre(n: Tensor | int, sum_x: Tensor, sum_y: Tensor, second: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of `n` rows about any origin, centred on their mean: the rank-1 correction.

    C_xx = Σxxᵀ − s_x s_xᵀ/n      C_xy = Σxyᵀ − s_x s_yᵀ/n      t_y = Σ‖y‖² − ‖s_y‖²/n

    Args:
        n: how many rows.
        sum_x: s_x `[d]`.
        sum_y: s_y `[e]`, of y or δ.
        second: `[d, d + e]`, Σxxᵀ (of which the upper triangle is read) beside Σxyᵀ.
        q: Σ‖y‖².

    Returns:
        C_xx `[d, d]`, symmetric; C_xy `[d, e]`; t_y.
    """
    d = len(sum_x)
    c_xx = mirrored(second[:, :d] - torch.outer(sum_x, sum_x) / n)
    return c_xx, second[:, d:] - torch.outer(sum_x, sum_y) / n, q - sum_y.square().sum() / n


def mirrored(matrix: Tensor) -> Tensor:
    """The symmetric matrix whose upper triangle is that of `matrix`."""
    upper = matrix.triu()
    return upper + upper.triu(1).T
