"""What predicting the first tokens of a text costs: whether text, tokenizer and weights belong together at all."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from linscore.decoder.call import evaluating, uncompiled
from linscore.decoder.find import Decoder
from linscore.text.batch import Tokens

TOKENS = 512  # of the first batch, at most: one pass, whose logits are small beside a model


class FirstLoss(NamedTuple):
    """Nats a token, and what guessing would cost: the logarithm of the vocabulary."""

    loss: float
    guessing: float


def first_rows(batch: Tokens) -> Tensor:
    """The longest of a batch's sequences, without padding, so many of one length as one pass is to take `[b, t]`."""
    rows = [ids[real][:TOKENS].to(torch.long) for ids, real in zip(batch.input_ids, batch.real, strict=True)]
    length = max(map(len, rows), default=0)
    if length < 2:
        return torch.empty(0, 0, dtype=torch.long)
    return torch.stack([row for row in rows if len(row) == length][: TOKENS // length])


def first_loss(decoder: Decoder, rows: Tensor) -> FirstLoss | None:
    """The loss of the next token on sequences `[b, t]` of one length; None without a head that can be run."""
    model: Any = decoder.model
    head = getattr(model, "get_output_embeddings", None)
    if head is None or head() is None or model.config.is_encoder_decoder:
        return None
    if not rows.numel():
        return None
    rows = rows.to(model.device)
    with torch.no_grad(), evaluating(model), uncompiled():
        try:
            logits = model(input_ids=rows).logits[:, :-1].float()
        except Exception:  # a head that wants more than tokens says nothing about the blocks
            return None
    targets = rows[:, 1:].to(logits.device)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return FirstLoss(loss.item(), math.log(logits.shape[-1]))
