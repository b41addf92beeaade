"""What an update of moments leaves open, so that nobody has to wait for the device: how many rows were heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from linscore_kernels import NONFINITE
from torch import Tensor

from linscore.statistics.cell import ordinary_tensors


@dataclass(frozen=True)
class Update:
    """Rows whose light ones were added; the heavy ones are, too, or they are held until `settle` says how many."""

    status: Tensor  # [n] uint8, on the device: LIGHT, HEAVY or NONFINITE
    apart: Tensor  # [2] float64, on the device: how many rows are heavy, and how many not finite
    room: float = float("inf")  # how many heavy rows are held at most
    add_heavy: Callable[[int], None] | None = None  # adds so many that are held; None: nothing is held

    @staticmethod
    def of_no_row(n: int, device: torch.device) -> Update:
        """Of `n` rows none of which is finite."""
        status = torch.full((n,), NONFINITE, dtype=torch.uint8, device=device)
        return Update(status, torch.tensor([0.0, n], dtype=torch.float64, device=device))

    @ordinary_tensors()
    def settle(self, heavy: int) -> bool:
        """Add the heavy rows, so many as `apart` says; False where they are more than are held: none is added then."""
        if heavy > self.room:
            return False
        if heavy and self.add_heavy is not None:
            self.add_heavy(heavy)
        return True
