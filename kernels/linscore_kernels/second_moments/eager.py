"""The operations in plain torch: the backend of machines without a GPU and, in float64, the oracle.

Rows go through in chunks that stay in cache, with no temporary larger than a chunk: 16-bit states become float32 a
chunk at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..given import DTYPES
from ..pilot import Pilot
from ..sums import HEAVY, LIGHT, NONFINITE, Sums, TokenStats, reduce
from .eager_products import products
from .eager_workspace import workspace

CHUNK = 2048  # rows: operands of one chunk stay in the last-level cache (decisions: CPU products)
FLUSH = 4 * CHUNK  # rows summed in float32 before float64 (decisions: What operands of 16 bits cost)


def operand_shape(n: int, d: int, dtype: torch.dtype, precision: str) -> tuple[tuple[int, int, int], torch.dtype]:  # noqa: ARG001
    """Shape and dtype of the operands of `n` rows: float32, or float64 at `precision` "exact"."""
    return (2, n, d), torch.float32 if precision == "fast" else torch.float64


def token_stats(
    x: Tensor,
    other: Tensor,
    *,
    delta_given: bool,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
) -> TokenStats:
    """Operands and per-token figures of the (picked) rows of `x` `[*, d]` and of y, or of δ `[*, e]`, `other`."""
    check_arguments(x, other, rows, precision, DTYPES, pilot.width_delta if delta_given else None)
    n = len(x) if rows is None else len(rows)
    shape, dtype = operand_shape(n, x.shape[1], x.dtype, precision)
    return _token_stats(x, other, rows, (0, n), delta_given, pilot, x.new_empty(shape, dtype=dtype))


def gram(operands: Tensor, out: Tensor) -> None:
    """Add [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of `operands` `[2, n, d]` to `out` `[d, d + e]`; below the diagonal nothing is promised."""
    with workspace(operands.device) as work:
        sums = products(out, operands, work)
        sums.add(operands[0], operands[1])
        sums.finish()


def symmetric_gram(x: Tensor, out: Tensor) -> None:
    """Add xᵀx of `x` `[n, d]` to `out` `[d, d]`; below the diagonal nothing is promised."""
    n, d = x.shape
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    with workspace(x.device) as work:
        buffer = work.take(dtype, 1, min(CHUNK, n), d)
        running = products(out, buffer, work)
        for start, stop in spans(0, n, CHUNK):
            rows = buffer[0, : stop - start].copy_(x[start:stop])
            running.add(rows, rows)
            if stop % FLUSH == 0 or stop == n:
                running.finish()


def accumulate(
    x: Tensor,
    other: Tensor,
    second: Tensor,
    *,
    delta_given: bool,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
    sign: int = 1,
) -> Sums:
    """Add `sign` times the second moments of the rows to `second` `[d, d + e]` float64, and return their sums."""
    check_arguments(x, other, rows, precision, DTYPES, pilot.width_delta if delta_given else None)
    n, d = len(x) if rows is None else len(rows), x.shape[1]
    shape, dtype = operand_shape(min(CHUNK, n), d, x.dtype, precision)
    # A state paired with itself has no δ to multiply.
    target = second[:, :d] if other is x and not delta_given else second
    parts = []
    with workspace(x.device) as work:
        buffer = work.take(dtype, *shape)  # one for all chunks, so that it stays in cache
        running = products(target, buffer, work, sign)
        for start, stop in spans(0, n, CHUNK):
            stats = _token_stats(x, other, rows, (start, stop), delta_given, pilot, buffer[:, : stop - start])
            parts.append(stats[1:])  # the buffer takes the next chunk
            running.add(*stats.operands)
            if stop % FLUSH == 0 or stop == n:
                running.finish()
    figures, status, sums = zip(*parts, strict=True)
    stats = TokenStats(buffer, torch.cat(figures, 1), torch.cat(status), torch.stack(sums).sum(0))
    return reduce(stats, other.shape[1])


class Pair(NamedTuple):
    """Some rows of x `[n, d]`, and of y or a given δ `[n, ≤ d]`, as they are stored."""

    x: Tensor
    other: Tensor


def spans(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """(first, stop) of chunks of at most `step` rows."""
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def _rows_at_once(d: int) -> int:
    """Rows that the passes over single elements take at once: what they share stays in the cores' own caches."""
    return max(256, min(CHUNK, (3 << 17) // d // 128 * 128))


def pick(x: Tensor, other: Tensor, rows: Tensor | None, start: int, stop: int) -> Pair:
    """The (picked) rows from `start` to `stop`, where they lie if they are a run, else gathered."""
    if rows is None:
        return Pair(x[start:stop], other[start:stop])
    picked = rows[start:stop]
    if len(picked) > 1 and (picked.diff() == 1).all():  # a run is read where it lies
        return pick(x, other, None, int(picked[0]), int(picked[-1]) + 1)
    return Pair(x.index_select(0, picked), other.index_select(0, picked))


def _token_stats(
    x: Tensor,
    other: Tensor,
    rows: Tensor | None,
    span: tuple[int, int],
    delta_given: bool,
    pilot: Pilot,
    operands: Tensor,
) -> TokenStats:
    """The same for a span of checked rows; `operands` `[2, n, d]` takes x̂ and δ̂ and names the arithmetic's dtype."""
    parts = []
    pilot = replace(pilot, center_delta=_widened(pilot.center_delta, x.shape[1]))
    for start, stop in spans(*span, _rows_at_once(x.shape[1])):
        pair, part = pick(x, other, rows, start, stop), operands[:, start - span[0] : stop - span[0]]
        parts.append(_token_stats_at_once(pair, delta_given, pilot, part))
    figures, status, sums = zip(*parts, strict=True)
    return TokenStats(operands, torch.cat(figures, 1), torch.cat(status), torch.stack(sums).sum(0))


def _token_stats_at_once(
    pair: Pair, delta_given: bool, pilot: Pilot, operands: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill in the operands of a few rows; their figures, status and sums."""
    x_hat, delta_hat = operands
    x, other = pair.x.to(operands.dtype), _widened(pair.other.to(operands.dtype), x_hat.shape[1])
    y, delta = (x + other, other) if delta_given else (other, torch.sub(other, x, out=delta_hat))
    norms = [torch.linalg.vector_norm(t, dim=1) for t in (x, y, delta)]
    torch.sub(x, pilot.center_x, out=x_hat)
    torch.sub(delta, pilot.center_delta, out=delta_hat)
    distances = torch.linalg.vector_norm(operands, dim=2)
    figures = torch.stack([*norms, distances[1], _rounding(pair.other, norms[0])])
    status = torch.zeros_like(norms[0], dtype=torch.uint8)
    # One look at all rows, which a NaN fails too. Which rows are at fault, and why, matters to few chunks.
    near = distances[0].amax() <= pilot.limit_x and distances[1].amax() <= pilot.limit_delta
    if not (near and figures.amax() < torch.inf):
        _classify(status, x, y, (distances[0] > pilot.limit_x) | (distances[1] > pilot.limit_delta), figures)
        operands[:, status != LIGHT] = 0
    figures[3].square_()
    return figures, status, operands.sum(1).double()


def _widened(narrow: Tensor, width: int) -> Tensor:
    """Zeros beyond the last column; itself where it is as wide."""
    missing = width - narrow.shape[-1]
    return torch.nn.functional.pad(narrow, (0, missing)) if missing else narrow


def _classify(status: Tensor, x: Tensor, y: Tensor, far: Tensor, figures: Tensor) -> None:
    """Say which rows are not light. A norm may overflow where the row itself is finite: such a row is heavy."""
    status[far] = HEAVY
    suspect = ~torch.isfinite(figures).all(0)
    finite = torch.isfinite(x[suspect]).all(1) & torch.isfinite(y[suspect]).all(1)
    status[suspect] = torch.where(finite, HEAVY, NONFINITE).to(torch.uint8)


def _rounding(stored: Tensor, like: Tensor) -> Tensor:
    """Σ ulp²/12 of each row as it is stored in 16 bits; 0 for wider dtypes, where it is negligible."""
    if stored.dtype not in _EXPONENT:
        return torch.zeros_like(like)
    power = (
        (stored.view(torch.int16) & _EXPONENT[stored.dtype]).view(stored.dtype).to(like.dtype)
    )  # ulp = 2^exponent · eps
    return torch.linalg.vector_norm(power, dim=1).square() * (torch.finfo(stored.dtype).eps ** 2 / 12)


_EXPONENT = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}  # the bits that are left when sign and mantissa are not
