"""Heavy rows that are set aside until they are counted: float64 operands, far smaller than the sums."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..pilot import Pilot
from ..sums import Sums
from .heavy_rows import add_products
from .heavy_rows_kernel import launch_heavy_rows
from .totals_kernel import launch_totals

LEAST, SHARE = 64, 64  # so many rows are held, or one in so many: two sinks a sequence of 128 tokens


@dataclass(frozen=True)
class HeldRows:
    """The first heavy rows of an update; zeros where there are fewer."""

    operands: Tensor  # [2, room, d] float64: x̂ and δ̂
    figures: Tensor  # [5, room] float64, in the order of FIGURES
    found: Tensor  # [room] uint8: LIGHT where there is such a row
    width_delta: int
    sign: int

    @property
    def room(self) -> int:
        """How many are held at most."""
        return self.found.shape[0]

    def add_to(self, second: Tensor, count: int) -> Sums:
        """Add their second moments to `second` `[d, d + e]` float64; their other sums. There are `count` ≤ room."""
        x_hat, delta_hat = self.operands[:, :count]
        add_products(second, x_hat, delta_hat, self.sign)
        operands = self.operands.transpose(0, 1)
        return launch_totals(self.figures, self.found, operands, second.shape[0], self.width_delta)


def hold(
    x: Tensor,
    other: Tensor,
    status: Tensor,
    *,
    pilot: Pilot,
    rows: Tensor | None,
    delta_given: bool,
    sign: int,
    room: int | None = None,
) -> HeldRows:
    """Set the first rows aside whose `status` is HEAVY, `room` of them; the others are arguments of `token_stats`."""
    n = status.shape[0]
    room = room or min(n, max(LEAST, n // SHARE))
    found = launch_heavy_rows(x, other, rows, status, pilot, room, delta_given=delta_given)
    return HeldRows(*found, pilot.width_delta, sign)
