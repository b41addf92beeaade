"""The layer loss in plain torch: the backend of machines without a GPU and, in float64, the oracle.

Rows go through in blocks, so that a block of every state stays in cache while the chain is walked; what is there once a
token is computed for all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SHORTEST = 1e-8  # as torch.nn.functional.cosine_similarity
BLOCK = 1 << 18  # elements of a state at a time and thread (decisions: The layer loss on a CPU in blocks)


def distances(states: list[Tensor], weight: Tensor, figures: Tensor) -> Tensor:
    """D and Q `[2]` of a chain of states `[n, d]`; fills in their `figures` `[L, 3, n]`."""
    norms = weight.new_empty(len(states), len(weight))
    apart, products = (norms.new_empty(len(states) - 1, len(weight)) for _ in range(2))
    for rows in _blocks(states[0]):
        into = [figure[:, rows] for figure in (norms, apart, products)]
        _walk([state[rows] for state in states], *into)
    norm_x, norm_y, squares = norms[:-1], norms[1:], apart.square()
    near = squares < norm_x * norm_y
    figures[:, 0], figures[:, 1] = norm_x, norm_y
    products = torch.where(near, (norm_x.square() + norm_y.square() - squares) / 2, products, out=figures[:, 2])
    terms = torch.stack((_distance(norm_x, norm_y, products, apart), squares))
    return (terms * weight).masked_fill_(weight == 0, 0).sum((1, 2))


def gradients(
    states: list[Tensor],
    figures: Sequence[Tensor],  # of each pair [3, n]
    weight: Tensor,
    upstream: Tensor,
    grads: Sequence[Tensor | None],
    outs: Sequence[Tensor | None],
) -> None:
    """Write the gradients in a chain of states `[n, d]`, plus `grads`, to `outs` where there are any."""
    factors = [_factors(floats, weight, upstream) for floats in figures]
    for rows in _blocks(states[0]):
        added, into = ([None if t is None else t[rows] for t in given] for given in (grads, outs))
        pairs = _Pairs([state[rows].to(weight.dtype) for state in states], [factor[:, rows] for factor in factors])
        _block_gradients(pairs, added, into, weight[rows])


def _blocks(state: Tensor) -> Iterator[slice]:
    n, d = state.shape
    step = max(1, BLOCK * torch.get_num_threads() // max(d, 1)) if state.device.type == "cpu" else max(n, 1)
    return (slice(start, start + step) for start in range(0, n, step))


def _walk(states: list[Tensor], norms: Tensor, apart: Tensor, products: Tensor) -> None:
    """‖h_i‖, ‖h_i − h_{i−1}‖ and ⟨h_{i−1}, h_i⟩ of a few rows; the last only where a neighbour is not near.

    Where it is, the norms say it to a few roundings of ‖h_{i−1}‖‖h_i‖.
    """
    y = states[0].to(norms.dtype)
    buffer, norm_y = torch.empty_like(y), norms[0]
    torch.linalg.vector_norm(y, dim=1, out=norm_y)
    for state, norm, length, product in zip(states[1:], norms[1:], apart, products, strict=True):
        x, norm_x, y, norm_y = y, norm_y, state.to(norms.dtype), norm
        torch.linalg.vector_norm(y, dim=1, out=norm_y)
        torch.linalg.vector_norm(torch.sub(y, x, out=buffer), dim=1, out=length)
        if not _all(length.square() < norm_x * norm_y):
            torch.sum(torch.mul(x, y, out=buffer), dim=1, out=product)


def _all(true: Tensor) -> bool:
    """Whether all are; on a GPU, which is not waited for, no."""
    return true.device.type == "cpu" and bool(true.all())


def _distance(norm_x: Tensor, norm_y: Tensor, product: Tensor, apart: Tensor) -> Tensor:
    """1 − cos: from three norms where neighbours are near, which keeps its digits, else from the inner product."""
    inverse = _inverse(norm_x, norm_y)
    longer = (norm_y - norm_x).abs()
    near = (apart.square() < norm_x * norm_y) & (inverse > 0)
    return torch.where(near, (apart - longer) * (apart + longer) * inverse / 2, 1 - product * inverse)


def _inverse(norm_x: Tensor, norm_y: Tensor) -> Tensor:
    """1/(‖x‖‖y‖), or 0 where either counts as zero."""
    both = (norm_x > SHORTEST) & (norm_y > SHORTEST)
    return torch.where(both, 1 / (norm_x * norm_y), 0)


def _factors(figures: Tensor, weight: Tensor, upstream: Tensor) -> Tensor:
    """−κ, 1 where both are near; the factors of m − κh, and of h where it is the first, the second: `[4, n, 1]`."""
    norm_x, norm_y, product = figures
    cosine, mse = weight * upstream[0] * _inverse(norm_x, norm_y), 2 * weight * upstream[1]
    near = norm_x.square() + norm_y.square() - 2 * product < norm_x * norm_y
    ratios = [product / norm.square().clamp_min(SHORTEST**2) for norm in (norm_x, norm_y)]
    along = [torch.where(near, cosine * (ratio - 1), cosine * ratio + mse) for ratio in ratios]
    return torch.stack((-near.to(weight.dtype), -(cosine + mse), *along))[:, :, None]


def _block_gradients(
    pairs: _Pairs, grads: Sequence[Tensor | None], outs: Sequence[Tensor | None], weight: Tensor
) -> None:
    """Write the gradients in a few rows, plus `grads`, to `outs`."""
    idle = None if _all(weight != 0) else (weight == 0)[:, None]
    for i, (grad, out) in enumerate(zip(grads, outs, strict=True)):
        if out is None:
            continue
        total = out if out.dtype is weight.dtype else torch.empty_like(pairs.states[i])
        pairs.gradient(i, total)
        if idle is not None:
            total.masked_fill_(idle, 0)
        if grad is not None:
            total.add_(grad)
        if total is not out:
            out.copy_(total)


class _Pairs:
    """The neighbours in a few rows of a chain, whose gradients are asked for in order."""

    def __init__(self, states: list[Tensor], factors: list[Tensor]) -> None:
        self.states, self.factors = states, factors
        self._near = [_all(factor[0] < 0) for factor in factors]
        self._buffers = states[0].new_empty(2 if any(self._near) else 1, *states[0].shape)
        self._stepped = -1  # the last pair whose step is there

    def gradient(self, i: int, out: Tensor) -> None:
        """Write the gradient in state `i` to `out`."""
        sides = [(pair, own) for pair, own in ((i - 1, 1), (i, 0)) if 0 <= pair < len(self.factors)]
        along = [self.factors[pair][2 + own] for pair, own in sides]
        torch.mul(self.states[i], sum(along), out=out)
        for pair, own in sides:
            minus_near, apart = self.factors[pair][:2]
            if self._near[pair]:
                out.addcmul_(self._step(pair), apart, value=-1 if own else 1)
            else:
                neighbour = self.states[pair if own else i + 1]
                out.addcmul_(torch.addcmul(neighbour, self.states[i], minus_near, out=self._buffers[0]), apart)

    def _step(self, pair: int) -> Tensor:
        """h_{i+1} − h_i of a pair: in the gradients of both."""
        step = self._buffers[1]
        if self._stepped < pair:
            torch.sub(self.states[pair + 1], self.states[pair], out=step)
            self._stepped = pair
        return step
