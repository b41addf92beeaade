"""Running figures of how far single tokens lie from a map: sums, a histogram, the largest, and what tokens they are.

Nothing grows with the number of tokens but by a token of the vocabulary. Shares are e²·n/t_δ of a token's error e: its
part of what the block adds, so that their mean is 1 − the held-out score without residual.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PER_DECADE = 100  # bins of the histogram: a quantile is 1.2 % off at most
LOWEST, HIGHEST = -12, 12  # decades; what lies outside counts in the outermost bins
LARGEST = 4096  # errors that are kept for the tail index, of which Hill's estimator takes 1 % of the tokens
WORST = 20


class Found(NamedTuple):
    """One token: its share, and where it stands."""

    share: float
    sequence: int  # of the text as it was read, from 0
    position: int
    ids: list[int]  # of the tokens around it, itself included
    place: int  # of it among them


class Tally:
    """The shares of the tokens of one block.

    Args:
        vocabulary: how many token ids there are.
    """

    def __init__(self, vocabulary: int) -> None:
        self.tokens, self.total = 0, 0.0
        self.by_id = torch.zeros(vocabulary, dtype=torch.float64)
        self.counts = torch.zeros(vocabulary, dtype=torch.int64)
        self.worst: list[Found] = []
        self._bins = torch.zeros((HIGHEST - LOWEST) * PER_DECADE, dtype=torch.int64)
        self._largest = torch.empty(0, dtype=torch.float64)

    def add(self, shares: Tensor, ids: Tensor) -> None:
        """Count tokens: shares `[n]` float64, and token ids `[n]`, on the CPU."""
        self.tokens += len(shares)
        self.total += shares.sum().item()
        self.by_id += torch.bincount(ids, weights=shares, minlength=len(self.by_id))
        self.counts += torch.bincount(ids, minlength=len(self.counts))
        places = ((shares.clamp_min(1e-300).log10() - LOWEST) * PER_DECADE).floor().long()
        self._bins += torch.bincount(places.clamp(0, len(self._bins) - 1), minlength=len(self._bins))
        both = torch.cat((self._largest, shares))
        self._largest = both.topk(min(LARGEST, len(both))).values

    def keep(self, found: list[Found]) -> None:
        """Keep those that are among the worst of all."""
        self.worst = sorted([*self.worst, *found], key=lambda one: -one.share)[:WORST]

    @property
    def bar(self) -> float:
        """The share above which a token is among the worst so far."""
        return self.worst[-1].share if len(self.worst) == WORST else 0.0

    def quantile(self, part: float) -> float | None:
        """The share below which that part of the tokens lies, to 1.2 %; None without tokens."""
        if self.tokens == 0:
            return None
        place = int(torch.searchsorted(self._bins.cumsum(0), part * self.tokens))
        return 10 ** (LOWEST + (min(place, len(self._bins) - 1) + 0.5) / PER_DECADE)

    def histogram(self, per_decade: int = 10) -> list[tuple[float, int]]:
        """(log10 of the lower edge, tokens) of each bin from the first that has any to the last."""
        bins = self._bins.view(-1, PER_DECADE // per_decade).sum(1)
        filled = bins.nonzero().flatten().tolist()
        if not filled:
            return []
        return [(LOWEST + place / per_decade, int(bins[place])) for place in range(filled[0], filled[-1] + 1)]

    @property
    def tail_index(self) -> float | None:
        """α of P(e > u) ∝ u^−α in the tail of the errors, by Hill (1975); small, and a few tokens carry the most.

        From the 1 % largest (`LARGEST` at most); None with fewer than 20 of them, or where they are all alike.
        """
        k = min(self.tokens // 100, len(self._largest) - 1)
        if k < 20 or not self._largest[k] > 0:
            return None
        logs = (self._largest[:k] / self._largest[k]).log().sum().item() / 2  # of e, whose square a share is
        return k / logs if logs > 0 else None
