"""How well a model predicts a text: perplexity and bits per byte over sliding windows (see `windows`)."""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.decoder.call import check_ids, evaluating
from linscore.decoder.find import token_embedding
from linscore.errors import LinscoreError
from linscore.evaluation.windows import Reader
from linscore.machine.device import copied
from linscore.machine.memory import Fitting
from linscore.machine.processes import ALONE, Processes
from linscore.text.ahead import Ahead
from linscore.text.batch import Batch, Tokens, read_batch
from linscore.text.documents import Document

__all__ = ["TextLoss", "batch_loss", "next_token_losses", "perplexity", "text_loss"]

LARGEST = math.log(sys.float_info.max)
CHUNK = 4096  # positions whose logits are float32 at a time


@dataclass(frozen=True)
class TextLoss:
    """What predicting a text cost.

    Attributes:
        nll: negative log-likelihood of all predicted tokens, in nats.
        tokens: how many tokens were predicted.
        bytes: how many bytes of UTF-8 text they stand for.
        seconds: spent on forward passes and losses; reading and tokenizing left out.

    Examples:
        >>> found = linscore.TextLoss(nll=300.0, tokens=100, bytes=400, seconds=0.5)
        >>> found.nats_per_token, round(found.perplexity, 2), round(found.bits_per_byte, 2)
        (3.0, 20.09, 1.08)
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
    processes: Processes = ALONE,
    ahead: Ahead | None = None,
) -> TextLoss:
    """Predict every token of the documents once, streamed: memory does not grow with the text.

    Args:
        model: a causal language model; runs without gradients and dropout, and keeps the mode it is in.
        tokenizer: the model's own. Bytes are exact for byte-level tokenizers; others may blur the border of a token
            left out (see `windows`) by the bytes of one character.
        documents: strings, or iterables of strings whose concatenation is the text.
        window: tokens that the model is fed at a time, at least 1.
        stride: how far the next window is moved, 1 to `window`.
        batch_size: windows that run together, of one or several documents.
        tokens: stop after so many predicted tokens.
        progress: called with the number of tokens that each batch predicts.
        processes: share the batches; each gets the whole loss, and the seconds of the slowest.
        ahead: has the batches made while the model runs; by default they are made when they are wanted.

    Raises:
        LinscoreError: an option is out of range, or the text has no token to predict.

    Examples:
        >>> found = linscore.text_loss(model, tokenizer, ["def f(x): return x"], window=32, stride=16)
        >>> found.tokens > 5, found.perplexity > 1
        (True, True)
    """
    reader, fitting = Reader(tokenizer, tokens), Fitting()
    batches = (ahead or Ahead(None)).read(reader.batches(documents, window, stride, batch_size))
    nll, predicted, seconds = 0.0, 0, 0.0
    with torch.no_grad(), evaluating(model):
        for number, batch in enumerate(batches):
            if processes.takes(number):
                start = time.perf_counter()
                loss, count = batch_loss(model, batch, fitting)
                seconds += time.perf_counter() - start
                nll, predicted = nll + loss, predicted + count
            if progress is not None:
                progress(int(read_batch(batch).predicted.sum()))
    losses, counts, times = zip(*processes.all((nll, predicted, seconds)), strict=True)
    nll, predicted, seconds = sum(losses), sum(counts), max(times)
    if predicted == 0:
        raise LinscoreError("the text has no token to predict: give a file with more text in it")
    return TextLoss(nll, predicted, reader.bytes, seconds)


def batch_loss(model: PreTrainedModel, batch: Batch, fitting: Fitting | None = None) -> tuple[float, int]:
    """Nats of all tokens that a batch is to predict, summed in float64, and how many they are.

    Rows may be padded on the right only, where padding changes nothing that a causal model says before it. They are run
    in parts where there is no memory for all at once, which `fitting` remembers for the next batch.

    Raises:
        LinscoreError: for other padding, for given positions, and for tokens that the embedding does not have.
    """
    read = read_batch(batch)
    found = (fitting or Fitting()).run(len(read.input_ids), lambda *rows: _loss(model, read.rows(*rows)))
    losses, counts = zip(*found, strict=True)
    return sum(losses), sum(counts)


def _loss(model: PreTrainedModel, read: Tokens) -> tuple[float, int]:
    begins_late = read.real[:, 1:] & ~read.real[:, :-1]
    if read.position_ids is not None or bool(begins_late.any()):
        raise LinscoreError(
            "the loss is that of rows from their first token on: pad them on the right, without positions"
        )
    embedding = token_embedding(model)
    if embedding is not None:
        check_ids(type(model).__name__, embedding, read.input_ids)
    wanted = read.predicted
    if not wanted.any():
        return 0.0, 0
    first = int(wanted.any(0).nonzero()[0])
    losses = next_token_losses(model, read.input_ids, wanted.shape[1] - first)
    return float(losses[wanted[:, first:].to(losses.device)].double().sum()), int(wanted.sum())


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
    input_ids = copied(input_ids, model.device)
    last = input_ids.shape[1] - 1 if last is None else last
    accepted = inspect.signature(model.forward).parameters
    options = {"use_cache": False, "logits_to_keep": last}
    output = model(input_ids=input_ids[:, :-1], **{key: value for key, value in options.items() if key in accepted})
    logits = output.logits[:, -last:].flatten(0, 1).split(CHUNK)
    targets = input_ids[:, -last:].flatten().split(CHUNK)
    losses = [cross_entropy(part.float(), ids, reduction="none") for part, ids in zip(logits, targets, strict=True)]
    return torch.cat(losses).view(-1, last)
