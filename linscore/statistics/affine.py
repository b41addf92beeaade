"""Affine maps y ≈ x + (x − μ_x) B + μ_δ, and their error on other rows from moments alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from linscore_kernels import residual_norms
from linscore_kernels.given import as_tensor
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.statistics.centered import Centered
from linscore.statistics.map_module import MapModule
from linscore.statistics.solve import solve


@dataclass(frozen=True)
class AffineMap:
    """The fitted map y ≈ x + (x − μ_x) B + μ_δ (the paper's A = I + B, with its means).

    Where δ is narrower than x, B reads all of x and adds to its first e features.
    """

    b: Tensor  # [d, e] float64, e = d but for a narrower δ
    mean_x: Tensor  # [d] float64
    mean_delta: Tensor  # [e] float64

    def __call__(self, x: Any) -> Tensor:
        """Map states `[..., d]`, a tensor, a NumPy array or anything with `__dlpack__`; float64, where x is.

        Raises LinscoreError for another width.
        """
        x = as_tensor("`x`", x).double()
        b, mean_x, mean_delta = (one.to(x.device) for one in (self.b, self.mean_x, self.mean_delta))
        if x.shape[-1:] != mean_x.shape:
            raise LinscoreError(f"`x` is {list(x.shape)}: give [..., {len(mean_x)}] to this map")
        delta = (x - mean_x) @ b + mean_delta
        return x + torch.nn.functional.pad(delta, (0, x.shape[-1] - delta.shape[-1]))

    def factors_by_name(self) -> dict[str, Tensor]:
        """What makes up B, by the names that a linear block and `MapModule` have for it."""
        return {"weight": self.b}

    def module(self, *, dtype: torch.dtype = torch.float32) -> MapModule:
        """The map as an nn.Module of its own, where B is; see `MapModule`."""
        return MapModule(self.factors_by_name(), self.mean_x, self.mean_delta, dtype=dtype)

    def residual_norms(self, x: Any, y: Any, mask: Any = None, *, rows: Any = None, precision: str = "fast") -> Tensor:
        """‖y − map(x)‖ of each row of `x` and `y` `[..., d]`: tokens that the block treats non-linearly (Figure 9).

        All is given as to `Moments.update`. Returns the leading shape, or one norm of each row that is picked, float32;
        float64 at `precision` "exact" and for float64 x. Raises LinscoreError where shapes do not fit, and for a B that
        is not square.
        """
        fitted: dict[str, Any] = {"b": self.b, "mean_x": self.mean_x, "mean_delta": self.mean_delta}
        return residual_norms(x, y, **fitted, mask=mask, rows=rows, precision=precision)


def fit_map(moments: Centered, *, precision: str = "fast") -> AffineMap:
    """The least-squares map of the block on these rows."""
    b = solve(moments, precision=precision).b
    assert b is not None
    return AffineMap(b, moments.mean_x, moments.mean_delta)


def diagonal_map(moments: Centered) -> AffineMap:
    """The best map that scales each feature by itself: B = diag(C_xδ) / diag(C_xx)."""
    variance = moments.c_xx.diagonal()
    gain = torch.where(variance > 0, moments.c_xd.diagonal() / variance, 0.0)
    return AffineMap(torch.diag(gain), moments.mean_x, moments.mean_delta)


def mean_map(moments: Centered) -> AffineMap:
    """The map that adds the mean of δ to every token: B = 0."""
    return AffineMap(torch.zeros_like(moments.c_xd), moments.mean_x, moments.mean_delta)


def squared_error(fitted: AffineMap, moments: Centered) -> float:
    """‖error‖² of a map on other rows, from their moments: equal to evaluating it there, to 1e-14.

    E = t_δ − 2 tr(BᵀC_xδ) + tr(BᵀC_xxB) + n‖u‖²,  u = (μ_δ − μ_δ') − Bᵀ(μ_x − μ_x'), the primes being the map's.
    """
    b = fitted.b
    gap = (moments.mean_delta - fitted.mean_delta) - b.T @ (moments.mean_x - fitted.mean_x)
    quadratic = (b * (moments.c_xx @ b)).sum() - 2 * (b * moments.c_xd).sum()
    return max(0.0, moments.t_delta + quadratic.item() + moments.n * (gap @ gap).item())  # rounding may cross zero
