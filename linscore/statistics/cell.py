"""The sums over one set of rows: what is kept of them, and how sums about two origins become one.

n, s_x = Σx̂, s_δ = Σδ̂, M = [Σx̂x̂ᵀ | Σx̂δ̂ᵀ], Σ of the per-token figures       x̂ = x − c_x,  δ̂ = δ − c_δ
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from linscore_kernels import SCALARS, Sums
from torch import Tensor


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """A context, or a decorator, in which sums are born that can be added to anywhere, whatever the caller's mode is.

    Tensors born in inference mode refuse later changes outside of it.
    """
    if not (torch.is_inference_mode_enabled() or torch.is_grad_enabled()):
        yield  # as it is in the hooks of a score, each of which would pay for the change
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass
class Cell:
    """The sums over one set of rows, float64, about a pilot centre (c_x, c_δ)."""

    n: Tensor  # []
    sum_x: Tensor  # [d]
    sum_delta: Tensor  # [e], e = d but where a given δ is narrower than x
    second: Tensor  # [d, d + e]: Σx̂x̂ᵀ (upper triangle only) beside Σx̂δ̂ᵀ
    scalars: Tensor  # [len(SCALARS)]: sums of the per-token figures

    @staticmethod
    def zeros(d: int, width_delta: int, device: torch.device | str = "cpu") -> Cell:
        """The empty set, for x of width `d` and δ of width `width_delta`."""
        e = width_delta
        shapes: tuple[tuple[int, ...], ...] = ((), (d,), (e,), (d, d + e), (len(SCALARS),))
        return Cell(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, other: Cell) -> Cell:
        """Add `other` in place."""
        for field in fields(Cell):
            getattr(self, field.name).add_(getattr(other, field.name))
        return self

    def add_sums(self, sums: Sums, sign: int) -> None:
        """Add `sign` times everything of one batch but its second moments, which the backend has added already."""
        own, more = ([getattr(one, name) for name in ("n", "sum_x", "sum_delta", "scalars")] for one in (self, sums))
        torch._foreach_add_(own, more, alpha=sign)  # one launch

    def to(self, device: torch.device | str) -> Cell:
        """This cell on `device`; itself when it is there."""
        return Cell(*(getattr(self, field.name).to(device) for field in fields(Cell)))

    def copy(self) -> Cell:
        """A cell of its own with the same sums."""
        return Cell(*(getattr(self, field.name).clone() for field in fields(Cell)))

    def mean(self, name: str) -> float:
        """The mean over the rows of a per-token figure (NaN without rows)."""
        return (self.scalars[SCALARS.index(name)] / self.n).item()

    def moved_origin(self, a: Tensor, b: Tensor) -> Cell:
        """A copy for x̂ + a and δ̂ + b in place of x̂ and δ̂ (`a` `[d]`, `b` `[e]` float64): rank-1 corrections."""
        shift, right = torch.cat([a, b]), torch.cat([self.sum_x, self.sum_delta])
        second = self.second + torch.outer(self.sum_x + self.n * a, shift) + torch.outer(a, right)
        scalars = self.scalars.clone()
        scalars[SCALARS.index("q_delta")] += 2 * b @ self.sum_delta + self.n * (b @ b)
        return Cell(self.n.clone(), self.sum_x + self.n * a, self.sum_delta + self.n * b, second, scalars)
