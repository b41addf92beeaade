"""Light rows by the backend, then the few heavy ones as float64 products: no 16- or 32-bit product survives them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from linscore_kernels.pilot import Pilot
from linscore_kernels.second_moments.op import accumulate, token_stats
from linscore_kernels.sums import HEAVY, LIGHT, NONFINITE, Sums, reduce

FEW = 1024  # rows: float64 operands of so many are smaller than the sums


def accumulate_apart(
    x: Tensor,
    y: Tensor | None,
    delta: Tensor | None,
    second: Tensor,
    heavy_second: Callable[[], Tensor],
    *,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
    sign: int = 1,
    backend: str | None = None,
) -> tuple[Sums, Sums | None]:
    """`accumulate`, and once more over the rows that it left out as heavy, exactly.

    Second moments of the heavy rows are added to what `heavy_second` gives, `[d, d + e]` float64, which is asked only
    where there are any; the other arguments are those of `accumulate`. States whose squares float32 cannot hold are
    float64 products too (decisions: States of any size).

    Returns:
        The sums of the light rows, with the status of all, and those of the heavy ones, if there are any.
    """
    exact = {"precision": "exact", "backend": "eager"}
    asked = {"precision": precision, "backend": backend} if pilot.ordinary else exact
    light = accumulate(x, y, delta, second, pilot=pilot, rows=rows, sign=sign, **asked)
    heavy = (light.status == HEAVY).nonzero()[:, 0]
    if not len(heavy):
        return light, None
    rows, every = heavy if rows is None else rows[heavy], pilot.without_limits()
    if len(rows) <= FEW:
        apart = _few(x, y, delta, heavy_second(), every, rows, sign)
    else:
        apart = accumulate(x, y, delta, heavy_second(), pilot=every, rows=rows, sign=sign, **exact)
    light.status[heavy[apart.status != LIGHT]] = NONFINITE  # float64 squares overflow: these rows are in neither sum
    return light, apart


def _few(
    x: Tensor, y: Tensor | None, delta: Tensor | None, second: Tensor, pilot: Pilot, rows: Tensor, sign: int
) -> Sums:
    """The same as `accumulate`, exactly, in two products that are added in place: no buffer of the size of `second`."""
    stats = token_stats(x, y, delta, pilot=pilot, rows=rows, precision="exact", backend="eager")
    x_hat, delta_hat = stats.operands
    d, e = len(second), pilot.width_delta
    second[:, :d].addmm_(x_hat.T, x_hat, alpha=sign)
    second[:, d:].addmm_(x_hat.T, delta_hat[:, :e], alpha=sign)
    return reduce(stats, e)
