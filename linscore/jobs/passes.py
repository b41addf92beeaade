"""How a model is measured on a text: cut alike wherever perplexity is, and read from the start at each pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from linscore.evaluation.windows import window_batches
from linscore.models.load import Pretrained
from linscore.progress import watched
from linscore.text.batch import read_batch
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


@dataclass
class Passes:
    """A text in batches for a model, from the start at each call, under a bar of its tokens.

    Attributes:
        loaded: the model.
        text: the text.
        cut: the windows on which `linscore evaluate` takes the perplexity; None: packed, as `linscore score` reads it.
        tokens: how many the last pass has read, or with windows has predicted.
    """

    loaded: Pretrained
    text: Text
    cut: Windows | None = None
    tokens: int = 0

    def __call__(self) -> Iterator[dict[str, Tensor]]:
        """The batches of the next pass.

        Raises:
            LinscoreError: for options of the text that cannot be used.
        """
        self.tokens = 0
        text, tokenizer, device = self.text, self.loaded.tokenizer, self.loaded.model.device
        if self.cut is None:
            batches = text.batches(tokenizer, self.loaded.context, device)
        else:
            documents, ahead = text.documents(device)
            batches = ahead.read(window_batches(tokenizer, documents, tokens=text.tokens, **self.cut))
        return watched(batches, text.expected_tokens(tokenizer), "measuring", self._count)

    def _count(self, batch: dict[str, Tensor]) -> int:
        count = batch["input_ids"].numel() if self.cut is None else int(read_batch(batch).predicted.sum())
        self.tokens += count
        return count
