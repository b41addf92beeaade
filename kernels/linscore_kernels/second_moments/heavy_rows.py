"""Light rows by the backend, then the few heavy ones as float64 products: no 16- or 32-bit product survives them.

How many are heavy only the device knows. `accumulate_apart` waits for the number; `accumulate_holding` sets the first
of them aside, and they are added once their number was read, for all blocks of a batch together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import y_or_delta
from ..backend import choose_backend
from ..pilot import Pilot
from ..sums import HEAVY, LIGHT, NONFINITE, Sums, reduce
from .op import accumulate, token_stats

if TYPE_CHECKING:
    from .held_rows import HeldRows

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
    if len(heavy) <= FEW and can_hold(x, pilot, choose_backend(x.device, backend)):
        held = _hold(x, y, delta, light.status, pilot=pilot, rows=rows, sign=sign, room=len(heavy))
        return light, held.add_to(heavy_second(), len(heavy))
    rows, every = heavy if rows is None else rows[heavy], pilot.without_limits()
    if len(heavy) <= FEW:
        apart = _few(x, y, delta, heavy_second(), every, rows, sign)
    else:
        apart = accumulate(x, y, delta, heavy_second(), pilot=every, rows=rows, sign=sign, **exact)
    overflown = heavy[apart.status != LIGHT]  # float64 squares overflow: these rows are in neither sum
    light.status[overflown] = NONFINITE
    light.apart.add_(light.apart.new_tensor([-len(overflown), len(overflown)]))
    return light, apart


def can_hold(x: Tensor, pilot: Pilot, backend: str) -> bool:
    """Whether `accumulate_holding` takes such rows: other backends and other states wait for every chunk anyway."""
    return backend == "triton" and x.dtype is not torch.float64 and pilot.ordinary


def accumulate_holding(
    x: Tensor,
    y: Tensor | None,
    delta: Tensor | None,
    second: Tensor,
    *,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
    sign: int = 1,
) -> tuple[Sums, HeldRows]:
    """`accumulate` by Triton, and the first of the rows that it left out as heavy: nothing waits for the device."""
    from . import triton

    other, given = y_or_delta(y, delta)
    about: dict[str, Any] = {"pilot": pilot, "rows": rows, "sign": sign}
    # Not by its operator, whose wrapper takes longer than all the rest of the host's work; hooks are not compiled.
    light = triton.accumulate(x, other, second, delta_given=given, precision=precision, **about)
    return light, _hold(x, y, delta, light.status, **about)


def _hold(x: Tensor, y: Tensor | None, delta: Tensor | None, status: Tensor, **about: Any) -> HeldRows:
    from .held_rows import hold

    other, given = y_or_delta(y, delta)
    return hold(x, other, status, delta_given=given, **about)


def add_products(second: Tensor, x_hat: Tensor, delta_hat: Tensor, sign: int) -> None:
    """Add `sign` times the products of float64 operands `[k, d]` to `second` `[d, d + e]`, in place."""
    d = second.shape[0]
    second[:, :d].addmm_(x_hat.T, x_hat, alpha=sign)
    second[:, d:].addmm_(x_hat.T, delta_hat[:, : second.shape[1] - d], alpha=sign)


def _few(
    x: Tensor, y: Tensor | None, delta: Tensor | None, second: Tensor, pilot: Pilot, rows: Tensor, sign: int
) -> Sums:
    """The same as `accumulate`, exactly, in two products that are added in place: no buffer of the size of `second`."""
    stats = token_stats(x, y, delta, pilot=pilot, rows=rows, precision="exact", backend="eager")
    x_hat, delta_hat = stats.operands
    add_products(second, x_hat, delta_hat, sign)
    return reduce(stats, pilot.width_delta)
