"""The products of the eager backend: the upper triangle of Σx̂x̂ᵀ beside Σx̂δ̂ᵀ, little more than d² + 2de FLOP per token.

The triangle is halved again and again: its square corner is one product, the two triangles beside it are halved in
turn, so that every level is one batch of square products of one size:

    ┌───┬───────┐
    │ ╲ │  one  │   levels 1, 2, 4, … corners of width d/2, d/4, d/8, …,
    ├───┼───────┤   and at the end the blocks on the diagonal
    │   │   ╲   │
    └───┴───────┘
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

NARROWEST = 64  # columns of a block: narrower ones save less than they cost (decisions: CPU products)
WIDE = 1024  # columns from which a transposed copy of x is worth it (decisions: oneDNN for wide states)


class Products:
    """Running sums [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] over chunks of rows of operands `like`: of their width, dtype and device.

    Of δ̂ the first `width_delta` columns are multiplied, none where that is 0.
    """

    def __init__(self, like: Tensor, width_delta: int) -> None:
        d = like.shape[-1]
        levels = 0
        while d % 2 ** (levels + 1) == 0 and d >> (levels + 1) >= NARROWEST:
            levels += 1
        # Of level l 2^l corners of width d/2^(l+1); the last are the blocks on the diagonal, of the width before.
        shapes = [(2**level, d >> (level + 1)) for level in range(levels)] + [(2**levels, d >> levels)]
        self._triangle = [like.new_zeros(count, width, width) for count, width in shapes]
        self._mixed = like.new_zeros(d, width_delta) if width_delta else None

    def add(self, x: Tensor, delta: Tensor) -> None:
        """Add the products of the rows of `x` and `delta` `[k, d]`."""
        *corners, diagonal = self._triangle
        for corner in corners:
            pairs = x.unflatten(1, (len(corner), 2, -1))
            _add_batch(corner, pairs[:, :, 0], pairs[:, :, 1])
        blocks = x.unflatten(1, (len(diagonal), -1))
        _add_batch(diagonal, blocks, blocks)
        if self._mixed is not None:
            self._mixed = _add_product(self._mixed, x, delta[:, : self._mixed.shape[1]])

    def move_to(self, out: Tensor, sign: int = 1) -> None:
        """Add `sign` times the sums to `out` `[d, d + e]`, on and right of the diagonal, and begin again at zero."""
        *corners, diagonal = self._triangle
        for step, blocks in [(2, corner) for corner in corners] + [(1, diagonal)]:
            width = blocks.shape[1]
            for i, block in enumerate(blocks):
                row, column = step * i * width, (step * i + step - 1) * width
                out[row : row + width, column : column + width].add_(block, alpha=sign)
            blocks.zero_()
        if self._mixed is not None:
            out[:, len(out) :].add_(self._mixed, alpha=sign)
            self._mixed.zero_()


def _add_batch(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total[i] += left[:, i]ᵀ @ right[:, i] for `left` and `right` `[k, count, width]`."""
    total.baddbmm_(left.permute(1, 2, 0), right.permute(1, 0, 2))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`total` + `left`ᵀ @ `right`, in place where that is possible."""
    wide = left.shape[1] >= WIDE
    right = right.contiguous() if wide else right  # a copy where it is cut out of wider rows
    if not (wide and _by_onednn(right)):
        return total.addmm_(left.T, right)
    # oneDNN wants the reduction axis contiguous on the left.
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(left.T.contiguous(), total, right.T, None, "add")
    return result


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """`left` `[m, k]` @ `right` `[k, n]`, of one dtype, the fastest way that torch has for them."""
    if not (left.is_contiguous() and _by_onednn(right)):
        return left @ right
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
    return product


def _by_onednn(right: Tensor) -> bool:
    """Whether oneDNN, which torch keeps for compiled models, takes the product: faster than BLAS on such CPUs.

    For other layouts it falls to loops a thousand times slower.
    """
    return right.is_contiguous() and right.device.type == "cpu" and right.dtype is torch.float32 and _has_onednn()


@cache
def _has_onednn() -> bool:
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and torch.backends.cpu.get_cpu_capability() == "AVX512"
