"""What a token's entry of the vocabulary tells of what a block adds: means by entry, held out.

An affine map of which entry it is (one feature for each) has these means as its least squares; no function of the token
by itself explains more of the tokens it is fitted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from linscore.text.batch import Batch, read_batch

NAMED = 4096  # entries that have a mean of their own, the most frequent ones: 8·d bytes each, in every block and fold


class Vocabulary:
    """How often each entry comes in the text, counted while batches pass by.

    Args:
        size: how many entries there are.
    """

    def __init__(self, size: int) -> None:
        self._counts = torch.zeros(size, dtype=torch.int64)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches."""
        for batch in batches:
            yield batch  # whoever runs it says first what is wrong with its ids
            read = read_batch(batch)
            self._counts += torch.bincount(read.input_ids[read.real].cpu().long(), minlength=len(self._counts))

    def rows(self) -> Tensor:
        """For each entry a row of a table; those that are not among the `NAMED` share the last."""
        named = self._counts.topk(min(NAMED, len(self._counts))).indices
        rows = torch.full_like(self._counts, len(named))
        rows[named] = torch.arange(len(named))
        return rows


class TypeMeans:
    """What one block adds, summed by entry of the vocabulary and fold.

    Args:
        rows: of `Vocabulary.rows`.
        folds: how many there are.
        width: features of what is added.
        device: where the sums are held, float64.
    """

    def __init__(self, rows: Tensor, folds: int, width: int, device: torch.device) -> None:
        self._rows = rows.to(device)
        named = min(NAMED, len(rows))  # and a last row for all others
        self._sums = torch.zeros(folds, named + 1, width, dtype=torch.float64, device=device)
        self._counts = torch.zeros(folds, named + 1, dtype=torch.float64, device=device)
        self._squares = torch.zeros(folds, dtype=torch.float64, device=device)

    def add(self, delta: Tensor, ids: Tensor, fold: int) -> None:
        """Add tokens of a fold: what the block adds to them `[n, d]`, and their ids `[n]`; those not finite are not."""
        finite = delta.isfinite().all(1)
        values, rows = delta[finite].double(), self._rows[ids.to(self._rows.device)[finite]]
        self._sums[fold].index_add_(0, rows, values)
        self._counts[fold] += torch.bincount(rows, minlength=self._counts.shape[1])
        self._squares[fold] += values.square().sum()

    def explained(self) -> float | None:
        """The share that the means of the other folds explain; None where that is not defined.

        A token whose entry is not in the other folds, or not named, is predicted by the mean of all their tokens.
        """
        filled = [fold for fold in range(len(self._counts)) if self._counts[fold].sum() > 0]
        if len(filled) < 2:
            return None
        missed = sum(self._missed(fold) for fold in filled)
        spread = sum(self._spread(fold) for fold in filled)
        return 1 - missed / spread if spread > 0 else None

    def _missed(self, fold: int) -> float:
        """Squared error of the tokens of a fold, expanded, under the means of the others."""
        counts, sums = self._counts.sum(0) - self._counts[fold], self._sums.sum(0) - self._sums[fold]
        known = counts > 0
        known[-1] = False
        means = torch.where(known[:, None], sums / counts.clamp_min(1)[:, None], sums.sum(0) / counts.sum())
        cross, square = (means * self._sums[fold]).sum(), (self._counts[fold] @ means.square()).sum()
        return float(self._squares[fold] - 2 * cross + square)

    def _spread(self, fold: int) -> float:
        """‖δ_c‖² of the tokens of a fold."""
        return float(self._squares[fold] - self._sums[fold].sum(0).square().sum() / self._counts[fold].sum())
