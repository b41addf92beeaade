"""The linearity of a batch as a loss: one more fit, differentiated in closed form.

B = (X_cᵀX_c + αI)⁻¹ X_cᵀδ_c     R = δ_c − X_c B     RSS_α = ‖R‖² + α‖B‖²     s = 1 − RSS_α/t
∂s/∂X_c = (2RBᵀ − 2ρ‖B‖²/d · X_c)/t     ∂s/∂δ_c = (−2R + 2RSS_α/t · δ_c)/t          α = ρ·tr(X_cᵀX_c)/d
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["batch_linearity"]


def batch_linearity(x: Tensor, y: Tensor, rows: Tensor | None = None, *, ridge: float = 1e-3) -> Tensor:
    """The linearity without residual of the rows given, in-sample, with gradients to x and y.

        s = 1 − min_B (‖δ_c − X_c B‖² + α‖B‖²) / ‖δ_c‖²        δ = y − x, α = ridge · tr(X_cᵀX_c)/d

    The gradients are exact, α's share in them included, for one derivative; they take two more products of 2nd² FLOP
    each and n·d floats that live only while they run. Products and solve are float64 for float64 states, float32
    otherwise, under autocast too; because B is a minimum, its rounding errors enter s squared.

    Args:
        x: `[..., d]`, what enters a block.
        y: `[..., d]`, what leaves it, on the same device.
        rows: `[n]` int64, which rows of the flattened states count; all by default.
        ridge: relative to the mean variance of a feature, above 0.

    Returns:
        A float32 (float64) scalar in [0, 1]; 1 where the block adds nothing that varies, NaN where a row is not finite.
    """
    score: Tensor = _BatchLinearity.apply(x, y, rows, ridge)
    return score


class _BatchLinearity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rows: Tensor | None, ridge: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x_c, delta_c = _centred(x, y, rows)
            gram = x_c.T @ x_c
            tiny = torch.finfo(gram.dtype).tiny
            alpha = (ridge * gram.trace() / len(gram)).clamp_min(tiny**0.5)  # states that are all alike
            gram.diagonal().add_(alpha)
            factor, failed = torch.linalg.cholesky_ex(gram)
            b = torch.cholesky_solve(x_c.T @ delta_c, factor.masked_fill_(failed != 0, math.nan))
            rss = (delta_c - x_c @ b).square().sum() + alpha * b.square().sum()
            total = delta_c.square().sum().clamp_min(tiny)
        ctx.save_for_backward(x, y, rows, b, rss / total, total)
        ctx.ridge = ridge
        return 1 - rss / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, rows, b, share, total = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            x_c, delta_c = _centred(x, y, rows)
            residual = delta_c - x_c @ b
            factor = 2 * upstream / total
            # α moves with X: its share in the gradient of the penalty α‖B‖².
            shrink = ctx.ridge * b.square().sum() / x_c.shape[1]
            to_x = (residual @ b.T).sub_(x_c.mul_(shrink)).mul_(factor)
            to_delta = delta_c.mul_(share).sub_(residual).mul_(factor)
        return _spread(to_x.sub_(to_delta), rows, x), _spread(to_delta, rows, y), None, None


def _centred(x: Tensor, y: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """X_c and δ_c, `[n, d]` in the dtype of the arithmetic; δ is formed first, since states are large against it."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, y = (h.flatten(0, -2) if rows is None else h.flatten(0, -2)[rows] for h in (x, y))
    delta = y.to(dtype) - x.to(dtype)
    return x.to(dtype) - x.to(dtype).mean(0), delta - delta.mean(0)


def _spread(gradient: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """Gradients of the rows that count, in the place of all."""
    if rows is None:
        return gradient.to(like.dtype).view(like.shape)
    whole = torch.zeros_like(like, memory_format=torch.contiguous_format)
    whole.flatten(0, -2)[rows] = gradient.to(like.dtype)
    return whole
