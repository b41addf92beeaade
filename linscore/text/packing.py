"""Documents to sequences of one length, each of one fold, streamed: memory does not grow with the corpus.

documents -> tokens -> passages -> folds -> sequences -> batches

Which fold a token belongs to follows from its place in the text alone, never from the batch, so that any batch size
gives the same folds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linscore.errors import LinscoreError, at_least, whole
from linscore.options.score import MOST_FOLDS
from linscore.text.documents import Document
from linscore.text.folds import passage_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from linscore.text.tokens import encode, overlap, recut, special_tokens


@dataclass(frozen=True)
class Sequence:
    """`seq_len` consecutive tokens of one fold."""

    input_ids: list[int]
    fold: int


def pack(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seq_len: int,
    folds: int,
    tokens: int | None = None,
) -> Iterator[Sequence]:
    """Sequences of `seq_len` tokens, each of one fold; folds are runs of text, nearly equal in size.

    A document goes to one fold, the one with the fewest tokens so far. A document longer than a passage goes passage
    by passage; a passage is one sequence long at first, so that a small text fills all folds, and 16 later. What is
    left in a fold at the very end, shorter than a sequence, is dropped.

    Args:
        documents: strings, or iterables of strings. Empty ones are skipped.
        tokenizer: its own special tokens frame each document, and its EOS token follows if it did not add it.
        seq_len: tokens in a sequence, at least 2.
        folds: cross-validation folds, at least 1.
        tokens: stop after so many, rounded down to whole sequences, but not below one.

    Raises:
        LinscoreError: an option is out of range, or the text does not give every fold a sequence.
    """
    whole("seq_len", seq_len, 2)
    whole("folds", folds, 1, MOST_FOLDS)
    at_least("tokens", tokens, 1)
    limit = None if tokens is None else max(1, tokens // seq_len)
    if limit is not None and limit < folds:
        raise LinscoreError(_too_few(f"`tokens={tokens}`", limit, seq_len, folds, "more `tokens`"))
    return itertools.islice(_packed(documents, tokenizer, seq_len, folds), limit)


def _packed(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, seq_len: int, folds: int
) -> Iterator[Sequence]:
    """All sequences; the first ones wait until every fold has one, so that too small a text fails at once."""
    packer, waiting = _Packer(seq_len, folds), []
    frame = special_tokens(tokenizer)
    for document in [documents] if isinstance(documents, str) else documents:
        for passage in _passages(_document_tokens(document, tokenizer, *frame), packer.passage_tokens):
            waiting += packer.add(passage)
            if packer.sequences >= folds:
                yield from waiting
                waiting = []
    if sum(packer.tokens) == 0:
        raise LinscoreError("the text is empty: give a file with text in it")
    if packer.sequences < folds:
        raise LinscoreError(_too_few("the text", packer.sequences, seq_len, folds, "more text"))


def _too_few(what: str, sequences: int, seq_len: int, folds: int, more: str) -> str:
    given = f"{what} gives {sequences} sequence{'s' * (sequences != 1)} of {seq_len} tokens"
    if folds == 1:
        return f"{given}, but at least 1 is needed: give {more} or a smaller `seq_len`"
    return f"{given}, but {folds} folds need at least {folds}: give {more}, or a smaller `seq_len`"


class _Packer:
    """One packing buffer per fold, and the tokens each fold was given."""

    def __init__(self, seq_len: int, folds: int) -> None:
        self.seq_len, self.folds, self.sequences = seq_len, folds, 0
        self.tokens = [0] * folds
        self.buffers: list[list[int]] = [[] for _ in range(folds)]

    def passage_tokens(self) -> int:
        """How long the next passage may be."""
        return self.seq_len * passage_length(self.sequences, self.folds)

    def add(self, passage: list[int]) -> list[Sequence]:
        """Give a passage to the fold with the fewest tokens; the sequences that this fills."""
        fold = self.tokens.index(min(self.tokens))
        self.tokens[fold] += len(passage)
        buffer = self.buffers[fold] + passage
        whole = len(buffer) - len(buffer) % self.seq_len
        self.buffers[fold] = buffer[whole:]
        self.sequences += whole // self.seq_len
        return [Sequence(buffer[at : at + self.seq_len], fold) for at in range(0, whole, self.seq_len)]


def _passages(pieces: Iterable[list[int]], length: Callable[[], int]) -> Iterator[list[int]]:
    """A document's tokens cut into passages; `length` is asked once per passage, the last one may be shorter."""
    passage: list[int] = []
    size = length()
    for ids in pieces:
        at = 0
        while at < len(ids):
            taken = ids[at : at + size - len(passage)]
            passage += taken
            at += len(taken)
            if len(passage) == size:
                yield passage
                passage, size = [], length()
    if passage:
        yield passage


def _document_tokens(
    document: Document, tokenizer: PreTrainedTokenizerBase, before: list[int], after: list[int]
) -> Iterator[list[int]]:
    """The token ids of one document, piece by piece, between its special tokens; nothing if there is no text.

    Of the special tokens those are left out that the text itself spells at its beginning or end.
    """
    last: list[int] = []
    for text in recut(document):
        ids = encode(tokenizer, text, special=False)
        if ids and not last:
            yield before[: len(before) - overlap(before, ids)]
        last = ids or last
        yield ids
    if last:
        yield after[overlap(last, after) :]


def batches(sequences: Iterable[Sequence], batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Batches of one fold each, so that no row has to be gathered by fold later.

    Args:
        sequences: as `pack` gives them.
        batch_size: sequences in a batch; a fold's last batch may be smaller.

    Yields:
        `{"input_ids": [B, seq_len] int64, "folds": [B] int64}`.
    """
    at_least("batch_size", batch_size, 1)
    queues: dict[int, list[Sequence]] = {}
    for sequence in sequences:
        queue = queues.setdefault(sequence.fold, [])
        queue.append(sequence)
        if len(queue) == batch_size:
            yield _batch(queues.pop(sequence.fold))
    yield from (_batch(queues[fold]) for fold in sorted(queues))


def _batch(queue: list[Sequence]) -> dict[str, Tensor]:
    rows = torch.tensor([sequence.input_ids for sequence in queue])
    return {"input_ids": rows, "folds": torch.tensor([sequence.fold for sequence in queue])}


def texts_within(sequence: list[int], before: list[int]) -> list[list[int]]:
    """The texts that begin in a packed sequence, each with what stands `before` a text.

    The end of a text that began elsewhere is left out, which a model has not seen the beginning of; a sequence in which
    none begins, as all are of a tokenizer that puts nothing before a text, stays as it is.
    """
    length = len(before)
    starts = [at for at in range(len(sequence)) if length and sequence[at : at + length] == before]
    if not starts:
        return [sequence]
    found = [sequence[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)]
    return [text for text in found if len(text) > length]
