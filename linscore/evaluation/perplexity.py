"""How well a model predicts a text: perplexity and bits per byte over sliding windows.

Every document is scored by itself, behind the tokens that its tokenizer puts in front of a text. A window feeds
`window` tokens to the model and predicts the tokens behind each of them that no window before it has predicted; the
next one starts `stride` tokens later. So every token is predicted once, from at least window − stride tokens (at least
one) wherever the document has them. Where the tokenizer puts nothing in front, the first token of a document is not
predicted, and its bytes do not count.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.decoder.run import evaluating
from linscore.errors import LinscoreError, at_least
from linscore.text.documents import Document
from linscore.text.tokens import encode, recut, special_tokens

__all__ = ["TextLoss", "next_token_losses", "perplexity", "text_loss"]

LARGEST = math.log(sys.float_info.max)
CHUNK = 4096  # positions whose logits are float32 at a time
SORTED_BATCHES = 16  # so many are read ahead and sorted by length, which leaves little padding


@dataclass(frozen=True)
class TextLoss:
    """What predicting a text cost.

    Attributes:
        nll: negative log-likelihood of all predicted tokens, in nats.
        tokens: how many tokens were predicted.
        bytes: how many bytes of UTF-8 text they stand for.
        seconds: spent on forward passes and losses; reading and tokenizing left out.
    """

    nll: float
    tokens: int
    bytes: int
    seconds: float

    @property
    def nats_per_token(self) -> float:
        """Mean loss of a predicted token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss."""
        return perplexity(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between models with different tokenizers."""
        return self.nll / math.log(2) / self.bytes


def perplexity(loss: float) -> float:
    """Exp of a mean loss in nats per token; the largest float64 where that is beyond it."""
    return math.exp(min(loss, LARGEST))


class _Window(NamedTuple):
    """Token ids, each but the last fed to the model; the last `predicted` of them are what it is to predict."""

    ids: list[int]
    predicted: int


def text_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Document],
    *,
    window: int,
    stride: int,
    batch_size: int = 8,
    tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> TextLoss:
    """Predict every token of the documents once, streamed: memory does not grow with the text.

    Args:
        model: a causal language model; runs without gradients and dropout, and keeps the mode it is in.
        tokenizer: the model's own. Bytes are exact for byte-level tokenizers; others may blur the border of a token
            left out (see the module) by the bytes of one character.
        documents: strings, or iterables of strings whose concatenation is the text.
        window: tokens that the model is fed at a time, at least 1.
        stride: how far the next window is moved, 1 to `window`.
        batch_size: windows that run together, of one or several documents.
        tokens: stop after so many predicted tokens.
        progress: called with the number of tokens that each batch predicts.

    Raises:
        LinscoreError: an option is out of range, or the text has no token to predict.
    """
    for what, value in {"window": window, "stride": stride, "batch_size": batch_size, "tokens": tokens}.items():
        at_least(what, value, 1)
    if stride > window:
        raise LinscoreError(f"`stride={stride}` is more than `window={window}`, tokens would be left out: give less")
    reader = _Reader(tokenizer, tokens)
    nll, predicted, seconds = 0.0, 0, 0.0
    with torch.no_grad(), evaluating(model):
        for batch in _batches(reader.windows(documents, window, stride), batch_size):
            start = time.perf_counter()
            nll += _nll(model, batch)
            seconds += time.perf_counter() - start
            count = sum(one.predicted for one in batch)
            predicted += count
            if progress is not None:
                progress(count)
    if predicted == 0:
        raise LinscoreError("the text has no token to predict: give a file with more text in it")
    return TextLoss(nll, predicted, reader.bytes, seconds)


def next_token_losses(model: PreTrainedModel, input_ids: Tensor, last: int | None = None) -> Tensor:
    """The cross entropy of each token given those before it, in nats.

    Args:
        model: a causal language model.
        input_ids: [batch, seq] integers, seq at least 2, on any device. Without an attention mask: what a causal model
            says about a token is not changed by padding to the right of it.
        last: only the last so many losses of each row, which saves the memory of the other logits; all by default.

    Returns:
        [batch, last] float32 (`last` = seq − 1 by default) on the model's device.
    """
    input_ids = input_ids.to(model.device)
    last = input_ids.shape[1] - 1 if last is None else last
    accepted = inspect.signature(model.forward).parameters
    options = {"use_cache": False, "logits_to_keep": last}
    output = model(input_ids=input_ids[:, :-1], **{key: value for key, value in options.items() if key in accepted})
    logits = output.logits[:, -last:].flatten(0, 1).split(CHUNK)
    targets = input_ids[:, -last:].flatten().split(CHUNK)
    losses = [cross_entropy(part.float(), ids, reduction="none") for part, ids in zip(logits, targets, strict=True)]
    return torch.cat(losses).view(-1, last)


def _nll(model: PreTrainedModel, batch: list[_Window]) -> float:
    """The loss of all that the windows are to predict, summed in float64."""
    longest = max(len(one.ids) for one in batch)
    rows = torch.tensor([one.ids + one.ids[-1:] * (longest - len(one.ids)) for one in batch])
    ends = torch.tensor([len(one.ids) for one in batch])[:, None]
    starts = ends - torch.tensor([one.predicted for one in batch])[:, None]
    first = int(starts.min())
    at = torch.arange(first, longest)
    losses = next_token_losses(model, rows, longest - first)
    wanted = ((at >= starts) & (at < ends)).to(losses.device)
    return float(losses[wanted].double().sum())


def _batches(windows: Iterator[_Window], batch_size: int) -> Iterator[list[_Window]]:
    while ahead := list(itertools.islice(windows, batch_size * SORTED_BATCHES)):
        ahead.sort(key=lambda one: (len(one.ids), one.predicted))
        yield from (ahead[at : at + batch_size] for at in range(0, len(ahead), batch_size))


class _Reader:
    """Turns documents into windows; counts the bytes of the tokens that these predict."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: int | None) -> None:
        self.tokenizer = tokenizer
        self.before, _ = special_tokens(tokenizer)
        self.left = math.inf if tokens is None else tokens
        self.bytes = 0

    def windows(self, documents: Iterable[Document], window: int, stride: int) -> Iterator[_Window]:
        """The windows of all documents, until enough tokens are predicted."""
        for document in [documents] if isinstance(documents, str) else documents:
            yield from _windows(self._pieces(document), window, stride, max(1, len(self.before)))
            if self.left == 0:
                return

    def _pieces(self, document: Document) -> Iterator[list[int]]:
        """The token ids of a document, piece by piece, as far as they are wanted."""
        unpredicted = 0 if self.before else 1
        yield self.before
        for text in recut(document):
            ids = encode(self.tokenizer, text, special=False)
            if not ids:
                continue
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


def _windows(pieces: Iterable[list[int]], window: int, stride: int, done: int) -> Iterator[_Window]:
    """The windows of one document, whose first `done` tokens are not to be predicted."""
    held: list[int] = []
    for piece in pieces:
        held += piece
        start = 0
        while len(held) - start > window:
            yield _Window(held[start : start + window + 1], max(0, window + 1 - done))
            start, done = start + stride, window + 1 - stride
        held = held[start:]
    if len(held) > done:
        yield _Window(held, len(held) - done)
