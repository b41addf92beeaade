"""How alike the states of a model are at any two depths, on one sample of tokens.

    CKA = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L))        K = XXᵀ, L = YYᵀ

with HSIC of centred K and L for linear CKA (Kornblith et al., 2019), and its unbiased form (Song et al., 2012) for
debiased CKA, which stays at 0 for unrelated states however few the tokens (Nguyen et al., 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from linscore.errors import LinscoreError

ROWS = 256  # of each Gram matrix at a time


class Similarity(NamedTuple):
    """Of any two depths, `[L + 1, L + 1]` float64 each."""

    cka: Tensor
    cka_debiased: Tensor
    angular_distance: Tensor  # mean over tokens, in units of π


def similarity(states: Tensor) -> Similarity:
    """Compare states `[L + 1, n, d]` of the same n tokens, four at least, at every depth with every other.

    (L + 1)·n²·d products and (L + 1)²·n² more; Gram matrices are made `ROWS` rows at a time.

    Raises:
        LinscoreError: for another shape, fewer tokens, or values that are not finite.
    """
    if states.ndim != 3 or states.shape[1] < 4:
        raise LinscoreError(f"states are {list(states.shape)}: give [depths, tokens, width], of four tokens or more")
    if not bool(states.isfinite().all()):
        raise LinscoreError("states have values that are not finite: leave those tokens out")
    return Similarity(*_cka(states), _angles(states))


def _cka(states: Tensor) -> tuple[Tensor, Tensor]:
    """Linear and debiased CKA, from sums over the Gram matrices K of centred states."""
    depths, n, _ = states.shape
    x = states.double() - states.double().mean(1, keepdim=True)
    x = (x / x.flatten(1).norm(dim=1).clamp_min(1e-300)[:, None, None]).float()
    products = torch.zeros(depths, depths, dtype=torch.float64, device=x.device)
    row_sums = torch.zeros(depths, n, dtype=torch.float64, device=x.device)  # without the diagonal
    diagonals = x.double().square().sum(2)
    for start in range(0, n, ROWS):
        grams = torch.bmm(x[:, start : start + ROWS], x.transpose(1, 2))
        products += (grams.flatten(1) @ grams.flatten(1).T).double()
        row_sums[:, start : start + ROWS] = grams.double().sum(2)
    row_sums -= diagonals
    off_diagonal = products - diagonals @ diagonals.T
    totals = row_sums.sum(1)
    unbiased = off_diagonal + torch.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * row_sums @ row_sums.T
    return _normalized(products), _normalized(unbiased)


def _normalized(hsic: Tensor) -> Tensor:
    """HSIC over the roots of its diagonal; 0 where states do not vary."""
    scale = hsic.diagonal().clamp_min(0).sqrt()
    both = torch.outer(scale, scale)
    return torch.where(both > 0, hsic / both.clamp_min(1e-300), 0.0).cpu()


def _angles(states: Tensor) -> Tensor:
    """The mean angle of each token's states, in units of π."""
    x = states.float()
    x = x / x.norm(dim=2, keepdim=True).clamp_min(1e-30)
    total = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    for rows in x.split(ROWS, dim=1):
        cosines = torch.bmm(rows.transpose(0, 1), rows.permute(1, 2, 0)).double().clamp(-1, 1)
        total += cosines.arccos().sum(0)
    angles = (total / states.shape[1] / torch.pi).fill_diagonal_(0)
    return angles.cpu()
