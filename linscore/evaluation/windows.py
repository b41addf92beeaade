"""A text as the windows that a language model is to predict it in.

Every document is scored by itself, behind the tokens that its tokenizer puts in front of a text. A window feeds
`window` tokens to the model and predicts the tokens behind each of them that no window before it has predicted; the
next one starts `stride` tokens later. So every token is predicted once, from at least window − stride tokens (at least
one) wherever the document has them. Where the tokenizer puts nothing in front, the first token of a document is not
predicted, and its bytes do not count.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from linscore.errors import LinscoreError, at_least
from linscore.text.batch import UNPREDICTED
from linscore.text.documents import Document
from linscore.text.tokens import encode, overlap, recut, special_tokens

__all__ = ["Reader", "Window", "batch_of", "window_batches"]

SORTED_BATCHES = 16  # so many are read ahead and sorted by length, which leaves little padding


def window_batches(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Document],
    *,
    window: int,
    stride: int,
    batch_size: int = 8,
    tokens: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """What `text_loss` feeds to a model, for whoever compares several on it.

    Yields:
        `input_ids` and `labels` [B, T] int64, padded on the right; a label is −100 where nothing is to be predicted.

    Raises:
        LinscoreError: an option is out of range.
    """
    return Reader(tokenizer, tokens).batches(documents, window, stride, batch_size)


class Window(NamedTuple):
    """Token ids, each but the last fed to the model; the last `predicted` of them are what it is to predict."""

    ids: list[int]
    predicted: int


class Reader:
    """Turns documents into windows; counts the bytes of the tokens that these predict."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: int | None) -> None:
        self.tokenizer, self.tokens = tokenizer, tokens
        self.before, _ = special_tokens(tokenizer)
        self.left = math.inf if tokens is None else tokens
        self.bytes = 0

    def batches(
        self, documents: Iterable[Document], window: int, stride: int, batch_size: int
    ) -> Iterator[dict[str, Tensor]]:
        """The windows of all documents, those of like length together."""
        given = {"window": window, "stride": stride, "batch_size": batch_size, "tokens": self.tokens}
        for what, value in given.items():
            at_least(what, value, 1)
        if stride > window:
            raise LinscoreError(
                f"`stride={stride}` is more than `window={window}`, tokens would be left out: give less"
            )
        return _batches(self.windows(documents, window, stride), batch_size)

    def windows(self, documents: Iterable[Document], window: int, stride: int) -> Iterator[Window]:
        """The windows of all documents, until enough tokens are predicted."""
        for document in [documents] if isinstance(documents, str) else documents:
            yield from _windows(self._pieces(document), window, stride, max(1, len(self.before)))
            if self.left == 0:
                return

    def _pieces(self, document: Document) -> Iterator[list[int]]:
        """The token ids of a document, piece by piece, as far as they are wanted."""
        begun, unpredicted = False, 0
        for text in recut(document):
            ids = encode(self.tokenizer, text, special=False)
            if not ids:
                continue
            if not begun:
                begun, shared = True, overlap(self.before, ids)  # special tokens that the text spells itself
                unpredicted = shared if self.before else 1
                yield self.before[: len(self.before) - shared]
            end = int(min(len(ids), unpredicted + self.left))
            self.bytes += self._bytes(text, ids, end) - self._bytes(text, ids, unpredicted)
            self.left -= end - unpredicted
            unpredicted = 0
            yield ids[:end]
            if self.left == 0:
                return

    def _bytes(self, text: str, ids: list[int], count: int) -> int:
        """Bytes of the first `count` tokens of a text."""
        if count in (0, len(ids)):
            return len(text.encode()) if count else 0
        # Byte-level tokenizers write one character per byte, so that even the part of a character is known.
        lengths = [len(token) for token in self.tokenizer.convert_ids_to_tokens(ids)]
        if sum(lengths) == len(text.encode()):
            return sum(lengths[:count])
        if not self.tokenizer.is_fast:
            return len(str(self.tokenizer.decode(ids[:count])).encode())
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return len(text[: encoded["offset_mapping"][count - 1][1]].encode())


def batch_of(windows: Sequence[Window]) -> dict[str, Tensor]:
    """Windows padded on the right, as `window_batches` gives them."""
    longest = max(len(one.ids) for one in windows)
    rows = torch.tensor([one.ids + one.ids[-1:] * (longest - len(one.ids)) for one in windows])
    ends = torch.tensor([len(one.ids) for one in windows])[:, None]
    starts = ends - torch.tensor([one.predicted for one in windows])[:, None]
    at = torch.arange(longest)
    return {"input_ids": rows, "labels": rows.where((at >= starts) & (at < ends), UNPREDICTED)}


def _batches(windows: Iterator[Window], batch_size: int) -> Iterator[dict[str, Tensor]]:
    while ahead := list(itertools.islice(windows, batch_size * SORTED_BATCHES)):
        ahead.sort(key=lambda one: (len(one.ids), one.predicted))
        yield from (batch_of(ahead[at : at + batch_size]) for at in range(0, len(ahead), batch_size))


def _windows(pieces: Iterable[list[int]], window: int, stride: int, done: int) -> Iterator[Window]:
    """The windows of one document, whose first `done` tokens are not to be predicted."""
    held: list[int] = []
    for piece in pieces:
        held += piece
        start = 0
        while len(held) - start > window:
            yield Window(held[start : start + window + 1], max(0, window + 1 - done))
            start, done = start + stride, window + 1 - stride
        held = held[start:]
    if len(held) > done:
        yield Window(held, len(held) - done)
