"""The same operations in plain torch: the backend of machines without a GPU and, in float64, the oracle.

Rows go through in chunks that stay in cache; [x̂ | δ̂] lie side by side in one buffer, so that one product per strip
of rows gives the upper triangle of Σx̂x̂ᵀ and all of Σx̂δ̂ᵀ: 3d² FLOP per token instead of 4d².
"""

from __future__ import annotations

import torch
from torch import Tensor

from linscore_kernels.stats import HEAVY, LIGHT, NONFINITE, Pilot, Sums, TokenStats, reduce

CHUNK = 2048  # rows: one chunk of operands stays in the last-level cache
FLUSH = 8192  # rows summed in float32 before they go to the float64 masters (design: no visible error up to 1e5)
STRIP = 96  # columns of x per product; narrower wastes the cores, wider wastes the triangle


def token_stats(
    x: Tensor,
    y: Tensor | None,
    delta: Tensor | None,
    *,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
    buffer: Tensor | None = None,
) -> TokenStats:
    """Operands and per-token figures of the rows of `x` `[n, d]` against `y` (or the given `delta`) `[n, d]`.

    `rows` (int64 indices) picks rows; `precision` is "fast" (float32) or "exact" (float64). `buffer` `[≥n, 2d]` of
    that dtype takes the operands, so that a loop over chunks allocates once.
    """
    dtype = torch.float32 if precision == "fast" else torch.float64
    if rows is not None:
        x, y, delta = (t if t is None else t.index_select(0, rows) for t in (x, y, delta))
    stored = y if y is not None else delta
    x = x.to(dtype)
    if delta is None:
        y = y.to(dtype)
        delta = y - x
    else:
        delta = delta.to(dtype)
        y = x + delta if y is None else y.to(dtype)
    n, d = x.shape
    operands = x.new_empty(n, 2 * d) if buffer is None else buffer[:n]
    x_hat = torch.sub(x, pilot.center_x, out=operands[:, :d])
    delta_hat = torch.sub(delta, pilot.center_delta, out=operands[:, d:])
    norms = [torch.linalg.vector_norm(t, dim=1) for t in (x, y, delta, x_hat, delta_hat)]
    status = _classify(norms, x, y, pilot)
    if status.any():
        operands[status != LIGHT] = 0
    return TokenStats(
        (x_hat,),
        (delta_hat,),
        True,
        *norms[:3],
        q_delta=norms[4].square(),
        rounding=_rounding(stored),
        sum_x=x_hat.sum(0).double(),
        sum_delta=delta_hat.sum(0).double(),
        status=status,
    )


def _classify(norms: list[Tensor], x: Tensor, y: Tensor, pilot: Pilot) -> Tensor:
    """Status of each row. A norm may overflow where the row itself is finite: such a row is heavy."""
    status = ((norms[3] > pilot.limit_x) | (norms[4] > pilot.limit_delta)).to(torch.uint8) * HEAVY
    suspect = ~torch.isfinite(torch.stack(norms).sum(0))
    if suspect.any():
        finite = torch.isfinite(x[suspect]).all(1) & torch.isfinite(y[suspect]).all(1)
        status[suspect] = torch.where(finite, HEAVY, NONFINITE).to(torch.uint8)
    return status


def _rounding(stored: Tensor) -> Tensor:
    """Σ ulp²/12 of each row as it is stored. ulp = 2^exponent · eps, the exponent read off the bits."""
    if stored.dtype is torch.bfloat16:  # the sign and mantissa bits cleared leave the power of two itself
        power = (stored.view(torch.int16) & 0x7F80).view(torch.bfloat16).float()
    else:
        power = torch.exp2((torch.frexp(stored).exponent - 1).float())
    return torch.linalg.vector_norm(power, dim=1).square() * (torch.finfo(stored.dtype).eps ** 2 / 12)


def gram(stats: TokenStats, out: Tensor) -> None:
    """Add [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of the operands to `out` `[d, 2d]` in their dtype; below the diagonal nothing is promised."""
    x, delta = stats.x[0], stats.delta[0]
    d = x.shape[1]
    adjacent = delta.data_ptr() - x.data_ptr() == d * x.element_size() and x.stride() == delta.stride()
    both = x.as_strided((len(x), 2 * d), x.stride()) if adjacent else torch.cat([x, delta], 1)
    for start in range(0, d, STRIP):
        stop = min(start + STRIP, d)
        out[start:stop, start:].addmm_(both[:, start:stop].T, both[:, start:])


def accumulate(
    x: Tensor,
    y: Tensor | None,
    delta: Tensor | None,
    second: Tensor,
    *,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
    sign: int = 1,
) -> Sums:
    """One pass over the rows: add `sign` times their second moments to `second` `[d, 2d]` float64, return the sums."""
    dtype = torch.float32 if precision == "fast" else torch.float64
    n, d = len(x) if rows is None else len(rows), x.shape[1]
    buffer = x.new_empty(min(CHUNK, n), 2 * d, dtype=dtype)
    partial = x.new_zeros(d, 2 * d, dtype=dtype)
    parts, pending = [], 0
    for start in range(0, n, CHUNK):
        span = slice(start, min(start + CHUNK, n))
        picked = (x[span], _cut(y, span), _cut(delta, span)) if rows is None else (x, y, delta)
        stats = token_stats(
            *picked, pilot=pilot, rows=None if rows is None else rows[span], precision=precision, buffer=buffer
        )
        gram(stats, partial)
        parts.append(reduce(stats))
        pending += CHUNK
        if pending >= FLUSH or span.stop == n:
            second.add_(partial, alpha=sign)
            partial.zero_()
            pending = 0
    return _concatenate(parts)


def _cut(tensor: Tensor | None, span: slice) -> Tensor | None:
    return None if tensor is None else tensor[span]


def _concatenate(parts: list[Sums]) -> Sums:
    n, sum_x, sum_delta, scalars, status = zip(*parts, strict=True)
    return Sums(sum(n), sum(sum_x), sum(sum_delta), sum(scalars), torch.cat(status))
