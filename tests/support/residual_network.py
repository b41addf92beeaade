"""A small residual network to tap, and the loss as anyone would write it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from linscore.regularization.taps import Chain, tap

WEIGHTS = {"cosine": 0.7, "mse": 0.03}
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.down(nn.functional.gelu(self.up(h)))


def decoder(blocks: int = 4, d: int = 6, dtype: torch.dtype = torch.float64) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(Block(d) for _ in range(blocks)).to(dtype)


def embeddings(d: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 5, d, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def forward(blocks, h, chain: Chain | None, call=lambda block, h: block(h)):
    """What leaves the last block, and all states."""
    states = []
    for block in (None, *blocks):
        h = h if block is None else call(block, h)
        h = h if chain is None else tap(h, chain)
        states.append(h)
    return h, states


def formula(states, mask=None, *, cosine=0.0, mse=0.0, tokens="mean", pairs="sum"):
    """As anyone would write it, over the tokens that count."""
    real = torch.ones(states[0].shape[:-1], dtype=torch.bool) if mask is None else mask.bool()
    terms = []
    for a, b in pairwise(states):
        a, b = a[real], b[real]
        each = cosine * (1 - cosine_similarity(a, b, dim=-1)) + mse * (a - b).square().sum(-1)
        terms.append(each.mean() if tokens == "mean" else each.sum())
    return torch.stack(terms).mean() if pairs == "mean" else torch.stack(terms).sum()


def gradients(loss, blocks, h, **options):
    return torch.autograd.grad(loss, [h, *blocks.parameters()], allow_unused=True, **options)
