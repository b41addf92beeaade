"""Sequences of one length out of a tokenized corpus, in an order that a seed and a place say, without an end.

Each epoch shuffles the documents, strings them together, cuts them anew and shuffles the cuts. What a run of training
reads at a step follows from the seed and the step alone, so a resumed run reads what the other would have read.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from linscore.errors import LinscoreError
from linscore.pretraining.token_store import TokenizedCorpus

__all__ = ["PackedSequences", "consecutive"]


class PackedSequences(Dataset[dict[str, Tensor]]):
    """`count` sequences of `seq_len` tokens, as a causal language model takes them: `input_ids` and `labels`, `[T]`.

    Args:
        corpus: of at least two sequences.
        seq_len: T.
        count: as many as are asked for, over epochs.
        seed: of the order.

    Raises:
        LinscoreError: for a corpus shorter than two sequences.
    """

    def __init__(self, corpus: TokenizedCorpus, seq_len: int, count: int, seed: int) -> None:
        self.corpus, self.seq_len, self.count, self.seed = corpus, seq_len, count, seed
        # One sequence less than there are, so that an epoch may begin within the first.
        self.per_epoch = len(corpus.tokens) // seq_len - 1
        if self.per_epoch < 1:
            raise LinscoreError(
                f"the corpus has {len(corpus.tokens)} tokens, too few for two sequences of {seq_len}: give more text "
                "or a smaller seq_len"
            )
        self._epoch = -1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        ids = torch.from_numpy(self._read(self._offset + int(self._cuts[place]) * self.seq_len))
        return {"input_ids": ids, "labels": ids}

    def _shuffle(self, epoch: int) -> None:
        random = np.random.default_rng((self.seed, epoch))
        starts = np.concatenate(([0], self.corpus.ends[:-1]))
        order = random.permutation(len(starts))
        self._starts = starts[order]
        self._ends = np.cumsum((self.corpus.ends - starts)[order])  # in the string of shuffled documents
        self._offset = int(random.integers(self.seq_len))
        self._cuts = random.permutation(self.per_epoch)
        self._epoch = epoch

    def _read(self, start: int) -> np.ndarray:
        """The ids `[T]` int64 from `start` on of the shuffled documents."""
        parts: list[np.ndarray] = []
        missing = self.seq_len
        document = int(np.searchsorted(self._ends, start, side="right"))
        while missing:
            begin = int(self._ends[document - 1]) if document else 0
            taken = min(missing, int(self._ends[document]) - start)
            at = int(self._starts[document]) + start - begin
            parts.append(self.corpus.tokens[at : at + taken])
            start, missing, document = start + taken, missing - taken, document + 1
        return np.concatenate(parts).astype(np.int64)


def consecutive(corpus: TokenizedCorpus, seq_len: int, tokens: int) -> Tensor:
    """The first sequences of a corpus, in its own order: `[B, seq_len]` int64, up to `tokens` tokens.

    Raises:
        LinscoreError: where there is not one.
    """
    rows = min(tokens, len(corpus.tokens)) // seq_len
    if not rows:
        raise LinscoreError(
            f"{min(tokens, len(corpus.tokens))} held-out tokens do not fill a sequence of {seq_len}: give more, or a "
            "smaller seq_len"
        )
    return torch.from_numpy(corpus.tokens[: rows * seq_len].astype(np.int64)).view(rows, seq_len)
