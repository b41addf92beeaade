"""The operations of the eager backend as Triton kernels: token_stats → gram → merge_tiles, chunk by chunk.

16-bit input at precision "fast" multiplies raw x with δ rounded to 16 bit; everything else, float32 input and
precision "exact", multiplies operands about the pilot centre, split in two float16 parts. The three kernels stay
on the device from end to end: nothing here waits for a result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from linscore_kernels.gram import launch_gram
from linscore_kernels.launch_parameters import GramLaunch, gram_launch
from linscore_kernels.launching import capability, interpreted
from linscore_kernels.merge_tiles import launch_merge
from linscore_kernels.stats import Pilot, Sums, TokenStats, add_up, check_arguments, reduce
from linscore_kernels.token_stats import ROW_ALIGN, Tokens, launch_token_stats

OPERAND_BYTES = 1 << 30  # of one chunk
LEAST_CHUNK = 8192  # rows: a shorter chunk spends its time on merging
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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

    `rows` (int64 indices) picks rows. Operands are raw 16 bit (`shifted` false), or about the pilot centre, scaled
    and split in two float16 parts: for float32 input, and at `precision` "exact". Raises ValueError for arguments
    that do not fit together.
    """
    _check(x, y, delta, pilot, rows, precision)
    return _as_stats(_tokens(x, y, delta, pilot, rows, precision))


def gram(stats: TokenStats, out: Tensor) -> None:
    """Add [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of the operands to `out` `[d, 2d]`, as they are: raw, or shifted and scaled.

    `stats` must come from this module's `token_stats`, whose operands lie in one padded buffer.
    """
    d = stats.x[0].shape[1]
    operands = _buffer(stats)
    launch_merge(launch_gram(operands, d, _launch(operands, d)), out)


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
    launch: GramLaunch | None = None,
    splits: int | None = None,
) -> Sums:
    """One pass over the rows: add `sign` times their second moments to `second` `[d, 2d]` float64, return the sums.

    `launch` and `splits` replace the tile shape and the number of programs per tile that are chosen otherwise.
    Raises ValueError for arguments that do not fit together.
    """
    _check(x, y, delta, pilot, rows, precision)
    _check_second(second, x)
    n, d = len(x) if rows is None else len(rows), x.shape[1]
    center = torch.cat([pilot.center_x, pilot.center_delta])
    scale = torch.cat([pilot.scale_x, pilot.scale_delta])
    chunk = _chunk(d, _is_split(x, precision))
    parts = []
    for start in range(0, n, chunk):
        span = slice(start, min(start + chunk, n))
        if rows is None:
            tokens = _tokens(x[span], _cut(y, span), _cut(delta, span), pilot, None, precision)
        else:
            tokens = _tokens(x, y, delta, pilot, rows[span], precision)
        sums = reduce(_as_stats(tokens))
        partial = launch_gram(tokens.operands, d, launch or _launch(tokens.operands, d), splits)
        if len(tokens.operands) == 4:
            launch_merge(partial, second, scale=scale, sign=sign)
        else:  # the product holds δ as rounded, so its origin moves by the sums of δ as rounded
            about = torch.cat([tokens.sums[0], tokens.sums[1] + tokens.sums[2]])
            launch_merge(partial, second, origin=(center, about, sums.n), sign=sign)
        parts.append(sums)
    return add_up(parts)


def _tokens(
    x: Tensor, y: Tensor | None, delta: Tensor | None, pilot: Pilot, rows: Tensor | None, precision: str
) -> Tokens:
    other = y if delta is None else delta
    assert other is not None  # checked at the door
    split = _is_split(x, precision)
    return launch_token_stats(x, other, rows, pilot, delta_given=delta is not None, split=split)


def _is_split(x: Tensor, precision: str) -> bool:
    return precision == "exact" or x.dtype is torch.float32


def _as_stats(tokens: Tokens) -> TokenStats:
    n, d = len(tokens.status), tokens.sums.shape[1]
    parts = tuple(part[:n, :d] for part in tokens.operands)
    half = len(parts) // 2
    sum_x, sum_delta, _ = tokens.sums
    figures = tokens.figures
    return TokenStats(
        parts[:half],
        parts[half:],
        half == 2,
        norm_x=figures[0],
        norm_y=figures[1],
        norm_delta=figures[2],
        q_delta=figures[3],
        rounding=figures[4],
        sum_x=sum_x,
        sum_delta=sum_delta,
        status=tokens.status,
    )


def _buffer(stats: TokenStats) -> Tensor:
    """The padded buffer `[parts, rows, width]` that the operands of `stats` are views of."""
    first, parts = stats.x[0], len(stats.x) + len(stats.delta)
    width = first.stride(0)
    rows = -(-len(first) // ROW_ALIGN) * ROW_ALIGN
    return first.as_strided((parts, rows, width), (rows * width, width, 1), 0)


def _launch(operands: Tensor, d: int) -> GramLaunch:
    return gram_launch(capability(operands), d, split=len(operands) == 4)


def _cut(tensor: Tensor | None, span: slice) -> Tensor | None:
    return None if tensor is None else tensor[span]


def _chunk(d: int, split: bool) -> int:
    rows = OPERAND_BYTES // (d * (8 if split else 4))
    return max(rows // LEAST_CHUNK, 1) * LEAST_CHUNK


def _check(
    x: Tensor, y: Tensor | None, delta: Tensor | None, pilot: Pilot, rows: Tensor | None, precision: str
) -> None:
    check_arguments(x, y, delta, pilot, rows, precision, DTYPES)
    if not (x.is_cuda or interpreted()):
        raise ValueError(f"Triton has no kernels for {x.device}: use the eager backend, or set TRITON_INTERPRET=1")


def _check_second(second: Tensor, x: Tensor) -> None:
    d = x.shape[1]
    if second.shape != (d, 2 * d) or second.dtype is not torch.float64 or second.stride(1) != 1:
        raise ValueError(f"second must be [{d}, {2 * d}] float64 with contiguous rows, not {tuple(second.shape)}")
    if second.device != x.device:
        raise ValueError(f"second is on {second.device} and x on {x.device}; move one of them")
