"""The linearity of a batch as a loss: a fit on its own moments, or on running ones, differentiated in closed form.

    C_xx = X_cᵀX_c     C_xδ = X_cᵀδ_c     t = ‖δ_c‖²     from one pass of the same kernels that score (`accumulate`)
    B = (C_xx + αI)⁻¹ C_xδ     R = δ_c − X_c B     RSS_α = ‖R‖² + α‖B‖²     s = 1 − RSS_α/t     α = ρ·tr(C_xx)/d
    ∂s/∂X_c = (2RBᵀ − 2ρ‖B‖²/d · X_c)/t     ∂s/∂δ_c = (−2R + 2RSS_α/t · δ_c)/t

With B from running moments α‖B‖² is left out: B is then a constant, and s the share of this batch that it explains.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from linscore_kernels import SCALARS, Pilot, accumulate
from linscore_kernels.full_precision import full_precision
from linscore_kernels.sums import centre
from torch import Tensor
from torch.autograd.function import once_differentiable

from linscore.errors import LinscoreError

__all__ = ["ROWS_PER_FEATURE", "BlockMoments", "RunningMoments", "batch_linearity"]

ROWS_PER_FEATURE = 4  # below, even noise fits well: in-sample scores are too high by about d/n


class RunningMoments:
    """C_xx and C_xδ of a block over the past batches, each centred about its own means, for a B that is not overfitted.

        C ← decay · C + C of the batch

    Args:
        decay: in (0, 1); of batches of n rows about n / (1 − decay) count.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.rows = decay, 0.0
        self.c_xx = self.c_xdelta = torch.zeros(())

    def add(self, c_xx: Tensor, c_xdelta: Tensor, rows: int) -> None:
        """Add a batch."""
        self.rows = self.decay * self.rows + rows
        self.c_xx = self.decay * self.c_xx.to(c_xx) + c_xx
        self.c_xdelta = self.decay * self.c_xdelta.to(c_xdelta) + c_xdelta


class BlockMoments:
    """The running moments of each block, where there is a decay."""

    def __init__(self, decay: float | None) -> None:
        self._decay = decay
        self._blocks: list[RunningMoments] = []

    def of(self, block: int) -> RunningMoments | None:
        """Those of a block; None without a decay."""
        if self._decay is None:
            return None
        if block == len(self._blocks):
            self._blocks.append(RunningMoments(self._decay))
        return self._blocks[block]

    def check(self, rows: int, width: int) -> None:
        """Make sure that there are, or will be, enough rows to fit maps on.

        Raises:
            LinscoreError: if not.
        """
        needed = ROWS_PER_FEATURE * width
        if self._decay is None and rows < needed:
            raise LinscoreError(
                f"a batch of {rows} real tokens is too small for linearity at width {width}: give batches of at least "
                f"{needed} tokens, running=0.99 for moments over past batches, or use cosine"
            )
        if self._decay is not None and rows < needed * (1 - self._decay):
            held = round(rows / (1 - self._decay))
            raise LinscoreError(
                f"moments that decay by {self._decay} over batches of {rows} real tokens hold {held}, fewer than the "
                f"{needed} that width {width} needs: give running nearer to 1, or larger batches"
            )


def batch_linearity(
    x: Tensor,
    y: Tensor,
    rows: Tensor | None = None,
    *,
    ridge: float = 1e-3,
    running: RunningMoments | None = None,
) -> Tensor:
    """The linearity without residual of the rows given, with gradients to x and y.

        s = 1 − min_B (‖δ_c − X_c B‖² + α‖B‖²) / ‖δ_c‖²        δ = y − x, α = ridge · tr(C_xx)/d

    The gradients are exact, α's share in them included, for one derivative; they take two more products of 2nd² FLOP
    each and n·d floats that live only while they run. Moments are those of the kernels (of 16-bit states products of
    16 bits), solve and gradients float64 for float64 states, float32 otherwise, under autocast too; because B is a
    minimum, its rounding errors enter s squared.

    Args:
        x: `[..., d]`, what enters a block.
        y: `[..., d]`, what leaves it, on the same device.
        rows: `[n]` int64, which rows of the flattened states count; all by default.
        ridge: relative to the mean variance of a feature, above 0.
        running: moments that this batch is added to and B is then fitted on, as a constant.

    Returns:
        A float32 (float64) scalar, at most 1, without `running` at least 0; 1 where the block adds nothing that varies,
        NaN where a row is not finite.
    """
    score: Tensor = _BatchLinearity.apply(x, y, rows, ridge, running)
    return score


class _BatchLinearity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, rows: Tensor | None, ridge: float, running: RunningMoments | None
    ) -> Tensor:
        batch = _batch_moments(x, y, rows)
        if running is not None:
            running.add(batch.c_xx, batch.c_xdelta, batch.rows)
        fitted_on = batch if running is None else running
        with full_precision(x.device):
            b, alpha = _fit(fitted_on.c_xx, fitted_on.c_xdelta, ridge)
            # In full, not as t − tr(BᵀC_xδ): an error of B then enters squared.
            explained = 2 * (b * batch.c_xdelta).sum() - (b * (batch.c_xx @ b)).sum()
            penalty = alpha * b.square().sum() if running is None else 0.0
            total = batch.t_delta.clamp_min(torch.finfo(b.dtype).tiny)
            share = (batch.t_delta - explained + penalty) / total
        means = (batch.mean_x, batch.mean_delta)
        ctx.save_for_backward(x, y, rows, b, share, total, *means)
        ctx.ridge = ridge if running is None else 0.0
        return 1 - share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, rows, b, share, total, mean_x, mean_delta = ctx.saved_tensors
        with full_precision(x.device):
            x_c, delta_c = _centred(x, y, rows, mean_x, mean_delta)
            residual = delta_c - x_c @ b
            factor = 2 * upstream / total
            # α moves with X: its share in the gradient of the penalty α‖B‖².
            shrink = ctx.ridge * b.square().sum() / x_c.shape[1]
            to_x = (residual @ b.T).sub_(x_c.mul_(shrink)).mul_(factor)
            to_delta = delta_c.mul_(share).sub_(residual).mul_(factor)
        return _spread(to_x.sub_(to_delta), rows, x), _spread(to_delta, rows, y), None, None, None


class _BatchMoments(NamedTuple):
    """Centred moments of one batch, in the dtype of the arithmetic."""

    c_xx: Tensor  # [d, d]
    c_xdelta: Tensor  # [d, d]
    t_delta: Tensor  # []
    mean_x: Tensor  # [d]
    mean_delta: Tensor  # [d]
    rows: int


def _batch_moments(x: Tensor, y: Tensor, rows: Tensor | None) -> _BatchMoments:
    """One pass of the kernels about a centre near the means, which the rank-1 terms then correct."""
    x, y = _picked(x.detach(), y.detach(), rows)
    double, (count, d) = x.dtype == torch.float64, x.shape
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=x.device)
    precision, backend = ("exact", "eager") if double else ("fast", None)
    pilot = Pilot.without_waiting(x, y)
    sums = accumulate(x, y, None, second, pilot=pilot, precision=precision, backend=backend)
    q_delta = sums.scalars[SCALARS.index("q_delta")]
    c_xx, c_xdelta, t_delta = centre(count, sums.sum_x, sums.sum_delta, second, q_delta)
    whole = torch.where(sums.n == count, 1.0, math.nan)  # rows that are not finite were left out
    dtype = torch.float64 if double else torch.float32
    return _BatchMoments(
        c_xx=(whole * c_xx).to(dtype),
        c_xdelta=c_xdelta.to(dtype),
        t_delta=t_delta.to(dtype),
        mean_x=(sums.sum_x / count + pilot.center_x).to(dtype),
        mean_delta=(sums.sum_delta / count + pilot.center_delta).to(dtype),
        rows=count,
    )


def _picked(x: Tensor, y: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows that count, `[n, d]` each; the others, padding, may be NaN."""
    x, y = x.flatten(0, -2), y.flatten(0, -2)
    return (x, y) if rows is None else (x[rows], y[rows])


def _fit(c_xx: Tensor, c_xdelta: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """B and α; NaN where C_xx is not positive definite."""
    tiny = torch.finfo(c_xx.dtype).tiny
    alpha = (ridge * c_xx.trace() / len(c_xx)).clamp_min(tiny**0.5)  # states that are all alike
    factor, failed = torch.linalg.cholesky_ex(c_xx + torch.diag(alpha.expand(len(c_xx))))
    return torch.cholesky_solve(c_xdelta, factor.masked_fill_(failed != 0, math.nan)), alpha


def _centred(x: Tensor, y: Tensor, rows: Tensor | None, mean_x: Tensor, mean_delta: Tensor) -> tuple[Tensor, Tensor]:
    """X_c and δ_c, `[n, d]` in the dtype of the means; δ is formed first, since states are large against it."""
    x, y = _picked(x, y, rows)
    x = x.to(mean_x.dtype)
    return x - mean_x, (y.to(x.dtype) - x).sub_(mean_delta)


def _spread(gradient: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """Gradients of the rows that count, in the place of all."""
    if rows is None:
        return gradient.to(like.dtype).view(like.shape)
    whole = torch.zeros_like(like, memory_format=torch.contiguous_format)
    whole.flatten(0, -2)[rows] = gradient.to(like.dtype)
    return whole
