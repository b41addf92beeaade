"""What a span of blocks is worth: the loss of the language model with the span left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from linscore.decoder.call import evaluating
from linscore.decoder.find import Decoder
from linscore.decoder.run import bypass
from linscore.errors import LinscoreError
from linscore.evaluation.perplexity import batch_loss
from linscore.machine.memory import Fitting
from linscore.spans import Span
from linscore.text.batch import Batch

__all__ = ["left_out_losses"]


def left_out_losses(decoder: Decoder, batches: Iterable[Batch], spans: Sequence[Span]) -> dict[Span | None, float]:
    """The mean loss of the next token, with the blocks of each span doing nothing.

    Args:
        decoder: with its language-model head; runs without gradients and dropout, and keeps the mode it is in.
        batches: [batch, seq] integers, or such under "input_ids", with padding on the right where "attention_mask" says
            so, and with "labels" of −100 for what is not to be predicted; read once, every span is tried on each.
        spans: of the decoder's blocks.

    Returns:
        Nats per token for each span, and for the whole model under None.

    Raises:
        LinscoreError: a span is not there, or the batches hold no token to predict.
    """
    missing = [str(span) for span in spans if span.last >= len(decoder.blocks)]
    if missing:
        last = len(decoder.blocks) - 1
        raise LinscoreError(f"{decoder.name} has no blocks {', '.join(missing)}: choose from 0 to {last}")
    totals: dict[Span | None, float] = dict.fromkeys([None, *spans], 0.0)
    tokens, fitting = 0, Fitting()
    model: Any = decoder.model
    with torch.no_grad(), evaluating(model):
        for batch in batches:
            for span in totals:
                with bypass(decoder, () if span is None else span.blocks):
                    loss, predicted = batch_loss(model, batch, fitting)
                totals[span] += loss
            tokens += predicted
    if tokens == 0:
        raise LinscoreError("the batches hold no token to predict: give a longer text")
    if not math.isfinite(totals[None]):
        raise LinscoreError(f"{decoder.name} predicts NaN or infinity on this text: check its weights")
    # NaN has no place in an order.
    return {span: total / tokens if math.isfinite(total) else math.inf for span, total in totals.items()}
