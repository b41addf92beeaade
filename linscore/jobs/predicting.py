"""How a text is cut where perplexity is measured, so that it is the same figure in evaluate, rank and the cuts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from torch import Tensor

from linscore.evaluation.windows import window_batches
from linscore.models.load import Pretrained
from linscore.progress import watched
from linscore.text.batch import Batch, read_batch
from linscore.text.source import Text, batch_of, within_context


class Windows(TypedDict):
    """Arguments of `text_loss` and `window_batches`."""

    window: int
    stride: int
    batch_size: int


def windows(
    loaded: Pretrained,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    *,
    argument: str = "window",
) -> Windows:
    """The windows asked for, by default of the model's context, ≤ 2048, and moved by half of it.

    Raises:
        LinscoreError: for a window, asked for as `argument`, that is longer than the context.
    """
    window = within_context(argument, window, loaded.context)
    stride = stride if stride is not None else max(1, window // 2)
    return {"window": window, "stride": stride, "batch_size": batch_size or batch_of(window, loaded.model.device)}


def predicting(loaded: Pretrained, text: Text, seq_len: int | None = None) -> Iterator[dict[str, Tensor]]:
    """The batches on which `linscore evaluate` takes the perplexity of this text, under a bar of their tokens."""
    cut = windows(loaded, seq_len, argument="seq_len")
    batches = window_batches(loaded.tokenizer, text.source.documents(), tokens=text.tokens, **cut)
    expected = text.expected_tokens(loaded.tokenizer)
    return watched(batches, expected, "measuring", predicted_in)


def predicted_in(batch: Batch) -> int:
    """How many tokens of a batch a model is to predict."""
    return int(read_batch(batch).predicted.sum())
