"""An affine map as a module: what a pipeline of torch's takes, trains, compiles and exports."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class MapModule(nn.Module):
    """y = x + (x − μ_x) B + μ_δ, differentiable in x, B and μ_δ.

    B is `weight` `[d, e]`, `down @ up`, the diagonal matrix of `scale`, or nothing, and μ_x and μ_δ are `center` and
    `bias`: the names of a linear block's (`linscore.linearize`), so that one's state dict is the other's. x − μ_x is
    formed first, because the means of outlier features would cancel (decisions: δ is formed first).

    Args:
        factors: what makes up B, by these names, in the order x meets them.
        mean_x: `[d]`.
        mean_delta: `[e]`; where it is narrower than x, δ adds to the first e features.
        dtype: of B; the means are float32 at least.
    """

    center: Tensor

    def __init__(
        self, factors: Mapping[str, Tensor], mean_x: Tensor, mean_delta: Tensor, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.factors = tuple(factors)
        for name, value in factors.items():
            self.register_parameter(name, nn.Parameter(value.to(dtype, copy=True)))
        means = torch.promote_types(dtype, torch.float32)
        self.bias = nn.Parameter(mean_delta.to(means, copy=True))
        self.register_buffer("center", mean_x.to(means, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map states `[..., d]`; in the dtype of x."""
        moved = x - self.center
        for name in self.factors:
            factor = self.get_parameter(name)
            moved = moved.to(factor.dtype)
            moved = moved @ factor if factor.ndim == 2 else moved * factor
        delta = moved + self.bias if self.factors else self.bias.expand(*x.shape[:-1], -1)
        missing = x.shape[-1] - delta.shape[-1]
        return (x + (nn.functional.pad(delta, (0, missing)) if missing else delta)).to(x.dtype)
