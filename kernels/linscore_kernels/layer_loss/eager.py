"""The layer loss in plain torch: the backend of machines without a GPU and, in float64, the oracle.

Rows go through in blocks, so that a block of every state stays in cache while its terms are summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SHORTEST = 1e-8  # as torch.nn.functional.cosine_similarity
BLOCK = 1 << 19  # elements of a state at a time (decisions: The layer loss on a CPU in blocks)


def distances(states: list[Tensor], weight: Tensor, figures: Tensor) -> Tensor:
    """D and Q `[2]` of a chain of states `[n, d]`; fills in their `figures` `[L, 3, n]`."""
    parts = [_block_distances([s[rows] for s in states], weight[rows], figures[:, :, rows]) for rows in _blocks(states)]
    return torch.stack(parts).sum(0)


def gradient(
    state: Tensor,
    weight: Tensor,
    upstream: Tensor,
    grad: Tensor | None,
    neighbours: Sequence[tuple[Tensor | None, Tensor | None]],  # a state and the floats of the pair, or nothing
    out: Tensor,
) -> None:
    """Write the gradient in `state` `[n, d]` of its distances from both neighbours, plus `grad`, to `out`."""
    factors = [
        (neighbour, _factors(figures, weight, upstream, own))
        for (neighbour, figures), own in zip(neighbours, (1, 0), strict=True)
        if neighbour is not None and figures is not None
    ]
    for rows in _blocks([state]):
        part = [(neighbour[rows], factor[:, rows]) for neighbour, factor in factors]
        _block_gradient(state[rows], None if grad is None else grad[rows], part, weight[rows], out[rows])


def _blocks(states: Sequence[Tensor]) -> Iterator[slice]:
    n, d = states[0].shape
    step = max(1, BLOCK // max(d, 1)) if states[0].device.type == "cpu" else max(n, 1)
    return (slice(start, start + step) for start in range(0, n, step))


def _block_distances(states: list[Tensor], weight: Tensor, figures: Tensor) -> Tensor:
    """D and Q `[2]` of a few rows; fills in their `figures` `[L, 3, rows]`."""
    sums = weight.new_zeros(2)
    y = states[0].to(weight.dtype)
    buffer, norm_y = torch.empty_like(y), torch.linalg.vector_norm(y, dim=1)
    for state, (norm_previous, norm, product) in zip(states[1:], figures, strict=True):
        x, norm_x, y = y, norm_y, state.to(weight.dtype)
        norm_y = torch.linalg.vector_norm(y, dim=1)
        apart = torch.linalg.vector_norm(torch.sub(y, x, out=buffer), dim=1)
        norm_previous.copy_(norm_x)
        norm.copy_(norm_y)
        torch.sum(torch.mul(x, y, out=buffer), dim=1, out=product)
        terms = torch.stack((_distance(norm_x, norm_y, product, apart), apart.square()))
        sums += (terms * weight).masked_fill_(weight == 0, 0).sum(1)
    return sums


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


def _factors(figures: Tensor, weight: Tensor, upstream: Tensor, own: int) -> Tensor:
    """−κ, κ being 1 where h and m are near, and the factors of m − κh and of h, `[3, n, 1]`; `figures[own]` is ‖h‖."""
    norm_x, norm_y, product = figures
    cosine, mse = weight * upstream[0] * _inverse(norm_x, norm_y), 2 * weight * upstream[1]
    ratio = product / figures[own].square().clamp_min(SHORTEST**2)
    near = norm_x.square() + norm_y.square() - 2 * product < norm_x * norm_y
    along = torch.where(near, cosine * (ratio - 1), cosine * ratio + mse)
    return torch.stack((-near.to(weight.dtype), -(cosine + mse), along))[:, :, None]


def _block_gradient(
    state: Tensor, grad: Tensor | None, neighbours: list[tuple[Tensor, Tensor]], weight: Tensor, out: Tensor
) -> None:
    """Write the gradient in a few rows to `out`."""
    h = state.to(weight.dtype)
    total = out if out.dtype is weight.dtype else torch.empty_like(h)
    buffer = torch.empty_like(h)
    along = torch.stack([factor[2] for _, factor in neighbours]).sum(0) if neighbours else h.new_zeros(())
    torch.mul(h, along, out=total)
    for neighbour, (minus_near, apart, _) in neighbours:
        total.addcmul_(torch.addcmul(neighbour.to(h.dtype), h, minus_near, out=buffer), apart)
    idle = weight == 0
    if idle.device.type != "cpu" or idle.any():  # a GPU is not waited for
        total.masked_fill_(idle[:, None], 0)
    if grad is not None:
        total.add_(grad)
    if total is not out:
        out.copy_(total)
