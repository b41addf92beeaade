"""Batches as they are collected: the fold of each sequence, and which positions count."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.options.score import ScoreOptions
from linscore.scoring.settle import Rows, rows_by_fold
from linscore.text.batch import Batch, Tokens, read_batch
from linscore.text.folds import FoldDealer


class Part(NamedTuple):
    """What is run at once of a batch, the fold of each sequence `[B]`, and which positions `[B, T]` count.

    `places` are those of the sequences in their batch, `[B]`.
    """

    tokens: Tokens
    folds: Tensor
    counting: Tensor
    rows: Rows
    places: Tensor


class Reader:
    """Reads batches in their order; sequences that do not say their fold are dealt by it."""

    def __init__(self, options: ScoreOptions) -> None:
        self._options = options
        self._skip_tokens = torch.tensor(sorted(options.skip_tokens), dtype=torch.long)

    def read(self, batch: Batch) -> tuple[Tokens, Tensor]:
        """The batch and the fold of each sequence, on the CPU. Raises LinscoreError for a batch of another form."""
        tokens = read_batch(batch)
        ids, folds, count = tokens.input_ids, tokens.folds, self._options.folds
        if folds is None:
            folds = torch.tensor([self._dealer.next() for _ in range(len(ids))], dtype=torch.long)
        elif folds.shape != ids.shape[:1] or not 0 <= folds.min() <= folds.max() < count:
            raise LinscoreError(f"folds must give each of the {len(ids)} sequences a fold from 0 to {count - 1}")
        return Tokens(*(None if part is None else part.cpu() for part in tokens)), folds.cpu()  # type: ignore[arg-type]

    def part(self, tokens: Tokens, folds: Tensor, places: Tensor | None = None) -> Part:
        """What is run at once, with what counts of it; without `places` it is a batch from its beginning."""
        counting = self._counting(tokens)
        places = torch.arange(len(folds)) if places is None else places
        return Part(tokens, folds, counting, rows_by_fold(counting, folds), places)

    def pass_over(self, batch: Batch) -> int:
        """Deal the sequences of a batch to folds and nothing else; how many tokens would count."""
        return int(self._counting(self.read(batch)[0]).sum())

    @cached_property
    def _dealer(self) -> FoldDealer:
        """Deals the sequences of batches that do not say their folds."""
        return FoldDealer(self._options.folds)

    def _counting(self, tokens: Tokens) -> Tensor:
        """Which positions `[B, T]` count: no padding, none of the first k, no token that is to be left out."""
        real = tokens.real
        counting = real & (real.cumsum(1) > self._options.skip_first)
        if len(self._skip_tokens):
            counting &= ~torch.isin(tokens.input_ids, self._skip_tokens)
        return counting
