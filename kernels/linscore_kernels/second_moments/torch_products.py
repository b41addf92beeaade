"""The same products by torch's own kernels, for the widths at which a measurement found those faster."""

from __future__ import annotations

import torch
from torch import Tensor

from ..full_precision import full_precision
from ..launching import multiprocessors, pieces
from .tile_list import LONGEST, splits_for
from .token_stats_kernel import ROW_ALIGN

TILE = 128  # rows and columns of a common tile of cuBLAS: how many programs a product keeps busy


def float32_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` of 16-bit matrices, or batches of them, summed and returned in float32."""
    if not left.is_cuda:  # the CPU's kernels return 16 bits
        return left.float() @ right.float()
    multiply = torch.mm if left.ndim == 2 else torch.bmm
    return multiply(left, right, out_dtype=torch.float32)


def torch_partials(operands: Tensor, d: int, longest: int = LONGEST, *, width_delta: int | None = None) -> Tensor:
    """Partial sums `[splits, d, d + e]` float32 of `operands` `[2 or 4, rows, width]`, e being `width_delta` or d.

    None takes more than `longest` tokens.
    """
    rows, e = operands.shape[1], d if width_delta is None else width_delta
    tiles = pieces(d, TILE) * (pieces(d, TILE) + pieces(e, TILE))
    splits = splits_for(rows, tiles, multiprocessors(operands))
    tokens = min(pieces(rows, splits * ROW_ALIGN) * ROW_ALIGN, longest)
    even = rows - rows % tokens
    spans = [span for span in operands[:, :, :d].tensor_split([even], 1) if span.shape[1]]
    with full_precision(operands.device):
        return torch.cat([_batch(span.unflatten(1, (-1, min(tokens, span.shape[1]))), e) for span in spans])


def _batch(parts: Tensor, e: int) -> Tensor:
    """[Σx̂x̂ᵀ | Σx̂δ̂ᵀ] `[batch, d, d + e]` of operands `[2 or 4, batch, tokens, d]`; of x̂ `[1, …]` alone where e is 0."""
    if not e:
        return _product(parts, parts)
    x, delta = parts.split(len(parts) // 2)
    return torch.cat([_product(x, x), _product(x, delta[..., :e])], 2)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Σ left·rightᵀ over the tokens, of hi and lo parts in three passes, smallest first."""
    hi, right_hi = left[0].mT, right[0]
    if len(left) == 1:
        return float32_product(hi, right_hi)
    total = float32_product(left[1].mT, right_hi)
    total += float32_product(hi, right[1])
    total += float32_product(hi, right_hi)
    return total
