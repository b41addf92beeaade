"""The products of the eager backend: the upper triangle of Σx̂x̂ᵀ beside Σx̂δ̂ᵀ, little more than d² + 2de FLOP per token.

By BLAS the triangle is halved again and again: its square corner is one product, the two triangles beside it are halved
in turn, so that every level is one batch of square products of one size:

    ┌───┬───────┐
    │ ╲ │  one  │   levels 1, 2, 4, … corners of width d/2, d/4, d/8, …,
    ├───┼───────┤   and at the end the blocks on the diagonal
    │   │   ╲   │
    └───┴───────┘

By oneDNN it is cut into strips, each of which is one product with all that lies right of its first column, δ̂ included.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .eager_workspace import Workspace

NARROWEST = 64  # columns of a block: narrower ones save less than they cost (decisions: CPU products)
STRIP = 256  # rows of a strip at most: more multiply more of the lower triangle, fewer read the rest more often
WIDE = 1024  # columns from which a transposed copy of the operands is worth it (decisions: oneDNN for wide states)
WIDE_AMX = 512  # the same on CPUs with matrix units, where the batches of small products were slow
LONGEST = 1024  # tokens in one sum of oneDNN, which adds them one by one
SLAB = 1 << 17  # numbers that become float64 at once: they stay in cache


class Halves:
    """Adds `sign` times [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of chunks of rows to `out` `[d, d + e]`, in BLAS.

    Of δ̂ the first e columns are multiplied, none where e is 0; below the diagonal nothing is promised.
    """

    def __init__(self, out: Tensor, like: Tensor, work: Workspace, sign: int = 1) -> None:
        d, e = len(out), out.shape[1] - len(out)
        levels = 0
        while d % 2 ** (levels + 1) == 0 and d >> (levels + 1) >= NARROWEST:
            levels += 1
        # Of level l 2^l corners of width d/2^(l+1); the last are the blocks on the diagonal, of the width before.
        shapes = [(2**level, d >> (level + 1)) for level in range(levels)] + [(2**levels, d >> levels)]
        self._triangle = [work.take(like.dtype, count, width, width) for count, width in shapes]
        self._mixed = work.take(like.dtype, d, e) if e else None
        self._target = Target(out, work, sign)
        self._kept = 0  # weight of what the sums hold, which at first is arbitrary

    def add(self, x: Tensor, delta: Tensor) -> None:
        """Take the products of the rows of `x` and `delta` `[k, d]`: they are in `out` after `finish`."""
        *corners, diagonal = self._triangle
        for corner in corners:
            pairs = x.unflatten(1, (len(corner), 2, -1))
            self._add_batch(corner, pairs[:, :, 0], pairs[:, :, 1])
        blocks = x.unflatten(1, (len(diagonal), -1))
        self._add_batch(diagonal, blocks, blocks)
        if self._mixed is not None:
            self._mixed.addmm_(x.T, delta[:, : self._mixed.shape[1]], beta=self._kept)
        self._kept = 1

    def finish(self) -> None:
        """Bring to `out` what is not there yet."""
        *corners, diagonal = self._triangle
        for step, blocks in [(2, corner) for corner in corners] + [(1, diagonal)]:
            width = blocks.shape[1]
            for i, block in enumerate(blocks):
                self._target.add(step * i * width, (step * i + step - 1) * width, block)
        if self._mixed is not None:
            self._target.add(0, len(self._mixed), self._mixed)
        self._kept = 0

    def _add_batch(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        """total[i] += left[:, i]ᵀ @ right[:, i] for `left` and `right` `[k, count, width]`."""
        total.baddbmm_(left.permute(1, 2, 0), right.permute(1, 0, 2), beta=self._kept)


class Strips:
    """The same in oneDNN, which wants the tokens contiguous on both sides."""

    def __init__(self, out: Tensor, like: Tensor, work: Workspace, sign: int = 1) -> None:
        self._d, self._width = len(out), out.shape[1]
        self._height = max(NARROWEST, min(STRIP, self._d // 3 // NARROWEST * NARROWEST))
        self._columns = work.take(like.dtype, like.shape[1] * self._width)
        self._target = Target(out, work, sign)

    def add(self, x: Tensor, delta: Tensor) -> None:
        """Add the products of the rows of `x` and `delta` `[k, d]`, no more than were announced."""
        pieces = []
        for start in range(0, len(x), LONGEST):
            tokens = slice(start, start + LONGEST)
            space = self._columns[start * self._width : min(start + LONGEST, len(x)) * self._width]
            pieces.append(space.view(self._width, -1))
            pieces[-1][: self._d].copy_(x[tokens].T)
            pieces[-1][self._d :].copy_(delta[tokens].T[: self._width - self._d])
        for start in range(0, self._d, self._height):
            stop = min(start + self._height, self._d)
            total = matmul(pieces[0][start:stop], pieces[0][start:].T)
            for columns in pieces[1:]:
                total = torch.ops.mkldnn._linear_pointwise.binary(
                    columns[start:stop], total, columns[start:], None, "add"
                )
            self._target.add(start, start, total)

    def finish(self) -> None:
        """Nothing is left to do."""


class Target:
    """Where products go: blocks of them are added to `out`, times `sign`."""

    def __init__(self, out: Tensor, work: Workspace, sign: int) -> None:
        self._out, self._sign, self._slab = out, sign, work.take(out.dtype, SLAB)

    def add(self, row: int, column: int, block: Tensor) -> None:
        """Add `block` to the part of `out` that begins there, in slabs: torch would make float64 of all of it first."""
        out = self._out[row : row + len(block), column : column + block.shape[1]]
        rows = max(1, SLAB // block.shape[1])
        for part, target in zip(block.split(rows), out.split(rows), strict=True):
            slab = self._slab[: part.numel()].view(part.shape)
            target.add_(slab.copy_(part), alpha=self._sign)


def products(out: Tensor, like: Tensor, work: Workspace, sign: int = 1) -> Halves | Strips:
    """What adds products of operands such as `like` `[2, k, d]` to `out`: of a width, on a machine, always the same."""
    wide = len(out) >= (WIDE_AMX if _has_amx() else WIDE)
    return (Strips if wide and _by_onednn(like) else Halves)(out, like, work, sign)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """`left` `[m, k]` @ `right` `[k, n]`, of one dtype, the fastest way that torch has for them."""
    if not (left.is_contiguous() and _is_dense(right) and _by_onednn(right)):
        return left @ right
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
    return product


def _is_dense(right: Tensor) -> bool:
    """Whether oneDNN reads it as it lies: for other layouts it falls to loops a thousand times slower."""
    return right.is_contiguous() or right.T.is_contiguous()


def _by_onednn(operand: Tensor) -> bool:
    """Whether oneDNN, which torch keeps for compiled models, takes products: faster than BLAS on such CPUs."""
    return operand.device.type == "cpu" and operand.dtype is torch.float32 and _has_onednn()


@cache
def _has_onednn() -> bool:
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and torch.backends.cpu.get_cpu_capability() == "AVX512"


@cache
def _has_amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
