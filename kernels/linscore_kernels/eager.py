"""The same operations in plain torch: the backend of machines without a GPU and, in float64, the oracle.

Rows go through in chunks that stay in cache. Σx̂x̂ᵀ is computed in strips of rows, each from the diagonal on: with
Σx̂δ̂ᵀ 3d² FLOP per token instead of 4d².
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from linscore_kernels.stats import (
    HEAVY,
    LIGHT,
    NONFINITE,
    Pilot,
    Sums,
    TokenStats,
    check_arguments,
    join,
    reduce,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CHUNK = 1024  # rows: operands of one chunk stay in the last-level cache (measured: 2 to 25 % ahead of 2048 and 4096)
FLUSH = 8 * CHUNK  # rows summed in float32 before they go to the float64 masters (no visible error up to 1e5)


def token_stats(
    x: Tensor,
    y: Tensor | None,
    delta: Tensor | None,
    *,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
) -> TokenStats:
    """Operands and per-token figures of the rows of `x` `[n, d]` against `y` or the given `delta` `[n, d]`.

    `rows` (int64 indices) picks rows; operands are float32, or float64 at `precision` "exact". Raises ValueError for
    arguments that do not fit together.
    """
    check_arguments(x, y, delta, pilot, rows, precision, DTYPES)
    n = len(x) if rows is None else len(rows)
    return _token_stats(
        _pick(x, y, delta, rows, slice(0, n)), pilot, x.new_empty(n, 2 * x.shape[1], dtype=_dtype(precision))
    )


def _dtype(precision: str) -> torch.dtype:
    return torch.float32 if precision == "fast" else torch.float64


class _Pair(NamedTuple):
    """Some rows of x, and of y or a given δ, as they are stored."""

    x: Tensor
    other: Tensor
    delta_given: bool


def _pick(x: Tensor, y: Tensor | None, delta: Tensor | None, rows: Tensor | None, span: slice) -> _Pair:
    other = delta if y is None else y
    assert other is not None  # checked at the door
    if rows is None:
        return _Pair(x[span], other[span], y is None)
    picked = rows[span]
    if len(picked) > 1 and (picked.diff() == 1).all():  # a run is read where it lies
        return _pick(x, y, delta, None, slice(int(picked[0]), int(picked[-1]) + 1))
    return _Pair(x.index_select(0, picked), other.index_select(0, picked), y is None)


def _token_stats(pair: _Pair, pilot: Pilot, operands: Tensor) -> TokenStats:
    """The same for checked rows; `operands` `[n, 2d]` takes [x̂ | δ̂] and names the dtype of the arithmetic."""
    d = operands.shape[1] // 2
    x_hat, delta_hat = operands[:, :d], operands[:, d:]
    x, other = pair.x.to(operands.dtype), pair.other.to(operands.dtype)
    y, delta = (x + other, other) if pair.delta_given else (other, torch.sub(other, x, out=delta_hat))
    norms = [torch.linalg.vector_norm(t, dim=1) for t in (x, y, delta)]
    torch.sub(x, pilot.center_x, out=x_hat)
    torch.sub(delta, pilot.center_delta, out=delta_hat)
    norms += [torch.linalg.vector_norm(t, dim=1) for t in (x_hat, delta_hat)]
    status = _classify(norms, x, y, pilot)
    if status.any():
        operands[status != LIGHT] = 0
    sum_x, sum_delta = operands.sum(0).double().split(d)
    return TokenStats(
        x=(x_hat,),
        delta=(delta_hat,),
        shifted=True,
        norm_x=norms[0],
        norm_y=norms[1],
        norm_delta=norms[2],
        q_delta=norms[4].square(),
        rounding=_rounding(pair.other),
        sum_x=sum_x,
        sum_delta=sum_delta,
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
    """Σ ulp²/12 of each row as it is stored in 16 bits; 0 for wider dtypes, where it is negligible."""
    if stored.dtype not in _EXPONENT:
        return torch.zeros(len(stored), device=stored.device)
    power = (stored.view(torch.int16) & _EXPONENT[stored.dtype]).view(stored.dtype).float()  # ulp = 2^exponent · eps
    return torch.linalg.vector_norm(power, dim=1).square() * (torch.finfo(stored.dtype).eps ** 2 / 12)


_EXPONENT = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}  # the bits that are left when sign and mantissa are not


def gram(stats: TokenStats, out: Tensor) -> None:
    """Add [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of the operands to `out` `[d, 2d]`, or its left half to `[d, d]`, in their dtype.

    Below the diagonal nothing is promised.
    """
    x, delta = stats.x[0], stats.delta[0]
    d = x.shape[1]
    strip = max(128, d // 8)  # narrower leaves the cores idle, wider computes more below the diagonal (measured)
    for start in range(0, d, strip):
        stop = min(start + strip, d)
        out[start:stop, start:d].addmm_(x[:, start:stop].T, x[:, start:])
    if out.shape[1] > d:
        out[:, d:].addmm_(x.T, delta)


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
    check_arguments(x, y, delta, pilot, rows, precision, DTYPES)
    dtype = _dtype(precision)
    n, d = len(x) if rows is None else len(rows), x.shape[1]
    buffer = x.new_empty(min(CHUNK, n), 2 * d, dtype=dtype)  # one for all chunks, so that it stays in cache
    width = d if y is x else 2 * d  # a state paired with itself has no δ to multiply
    partial = x.new_zeros(d, width, dtype=dtype)
    parts = []
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        stats = _token_stats(_pick(x, y, delta, rows, slice(start, stop)), pilot, buffer[: stop - start])
        gram(stats, partial)
        parts.append(stats._replace(x=(), delta=()))  # the buffer takes the next chunk
        if stop % FLUSH == 0 or stop == n:
            second[:, :width].add_(partial, alpha=sign)
            partial.zero_()
    return reduce(join(parts))
