"""The operations as Triton kernels: token_stats → gram → merge, totals, chunk by chunk.

16-bit input at precision "fast" multiplies single operands, x̂ and δ̂ rounded to its dtype; everything else, float32
input and precision "exact", multiplies operands that are scaled and split in two float16 parts. The kernels
stay on the device from end to end: nothing here waits for a result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..arguments import check_arguments
from ..launching import COLUMN_ALIGN, capability, check_device, whole_rows
from ..pilot import Pilot
from ..sums import Sums, TokenStats, add_up
from ..tuning.parameters import Launch, launch_for, torch_is_faster
from . import token_stats_kernel
from .gluon_check import trusted
from .gram_kernel import launch_gram
from .merge_kernel import launch_merge
from .tile_list import LONGEST
from .token_stats_kernel import ROW_ALIGN, launch_token_stats
from .torch_products import torch_partials
from .totals_kernel import launch_totals

OPERAND_BYTES = 1 << 30  # of one chunk
LEAST_CHUNK = 8192  # rows: a shorter chunk spends its time on merging
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def operand_shape(n: int, d: int, dtype: torch.dtype, precision: str) -> tuple[tuple[int, int, int], torch.dtype]:
    """Shape and dtype of the operands of `n` rows of `dtype`, padded to whole tiles."""
    return token_stats_kernel.operand_shape(n, d, dtype, split=is_split(dtype, precision))


def token_stats(
    x: Tensor,
    other: Tensor,
    *,
    delta_given: bool,
    pilot: Pilot,
    rows: Tensor | None = None,
    precision: str = "fast",
) -> TokenStats:
    """Operands and per-token figures of the (picked) rows of `x` `[*, d]` and of y, or of δ `[*, e]`, `other`.

    Operands are single, or scaled by the pilot and split in two float16 parts: for float32 input, and at `precision`
    "exact". Raises LinscoreError for arguments that do not fit together.
    """
    check(x, other, rows, precision, pilot.width_delta if delta_given else None)
    split = is_split(x.dtype, precision)
    stats = launch_token_stats(x, other, rows, pilot, delta_given=delta_given, split=split)
    return stats._replace(sums=stats.sums[:, :, : x.shape[1]].sum(0, dtype=torch.float64))


def gram(operands: Tensor, out: Tensor) -> None:
    """Add [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of the `operands` of `token_stats` to `out` `[d, d + e]`, scaled where they are."""
    lacking = -operands.shape[1] % ROW_ALIGN  # none in what token_stats made
    operands = pad(operands, (0, 0, 0, lacking)) if lacking else operands
    _add_products(operands, out)


def symmetric_gram(x: Tensor, out: Tensor) -> None:
    """Add xᵀx of `x` `[n, d]` to `out` `[d, d]`; below the diagonal nothing is promised."""
    check_device(x)
    if is_split(x.dtype, "fast") or x.dtype is torch.float64:
        out += x.T @ x  # split operands would have to be made first, for sums that wait for nothing else
    else:
        gram(whole_rows(x, COLUMN_ALIGN).contiguous()[None], out)


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
    launch: Launch | None = None,
    splits: int | None = None,
) -> Sums:
    """Add `sign` times the second moments of the rows to `second` `[d, d + e]` float64, and return their sums.

    `launch` and `splits` replace the tile shape and the number of programs per tile that are chosen otherwise.
    Raises LinscoreError for arguments that do not fit together.
    """
    check(x, other, rows, precision, pilot.width_delta if delta_given else None)
    n, d = (x if rows is None else rows).shape[0], x.shape[1]
    split = is_split(x.dtype, precision)
    scale = pilot.scales if split else None
    chunk = _chunk(d, split)
    parts = []
    for start in range(0, n, chunk):
        span = slice(start, min(start + chunk, n))
        x_part, other_part = (x[span], other[span]) if rows is None else (x, other)
        rows_part = None if rows is None else rows[span]
        stats = launch_token_stats(x_part, other_part, rows_part, pilot, delta_given=delta_given, split=split)
        _add_products(stats.operands, second, scale=scale, sign=sign, launch=launch, splits=splits)
        parts.append(launch_totals(stats.figures, stats.status, stats.sums, d, other.shape[1]))
    return add_up(parts)


def is_split(dtype: torch.dtype, precision: str) -> bool:
    """Whether states of `dtype` are multiplied as two float16 parts."""
    return precision == "exact" or dtype is torch.float32


def _add_products(
    operands: Tensor,
    out: Tensor,
    *,
    scale: Tensor | None = None,
    sign: int = 1,
    launch: Launch | None = None,
    splits: int | None = None,
) -> None:
    d, columns = out.shape
    path = "split" if operands.shape[0] == 4 else "single"
    chosen = launch or launch_for(capability(operands), d, path)
    if launch is None and torch_is_faster(capability(operands), d, path):
        partials = torch_partials(operands, d, chosen.flush or LONGEST, width_delta=columns - d)
        launch_merge(partials, out, scale=scale, sign=sign)
    else:
        launch_gram(operands, out, launch or trusted(chosen, operands), splits, scale=scale, sign=sign)


def _chunk(d: int, split: bool) -> int:
    rows = OPERAND_BYTES // (d * (8 if split else 4))
    return max(rows // LEAST_CHUNK, 1) * LEAST_CHUNK


def check(x: Tensor, other: Tensor, rows: Tensor | None, precision: str, width_delta: int | None = None) -> None:
    """Raises LinscoreError for arguments that do not fit together, or that Triton has no kernels for."""
    check_arguments(x, other, rows, precision, DTYPES, width_delta)
    check_device(x)
