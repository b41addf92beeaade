"""What predicting the first tokens of a text costs: whether text, tokenizer and weights belong together at all."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from linscore.decoder.call import evaluating, uncompiled
from linscore.decoder.find import Decoder
from linscore.text.batch import Tokens

TOKENS = 1024  # of the first batch, at most
ROW = 512


class FirstLoss(NamedTuple):
    """Nats a token, and what guessing would cost: the logarithm of the vocabulary."""

    loss: float
    guessing: float


def first_loss(decoder: Decoder, batch: Tokens) -> FirstLoss | None:
    """The loss of the next token on the first sequences of a batch; None for a model without a head that can be run."""
    model: Any = decoder.model
    head = getattr(model, "get_output_embeddings", None)
    if head is None or head() is None or model.config.is_encoder_decoder:
        return None
    losses: list[Tensor] = []
    with torch.no_grad(), evaluating(model), uncompiled():
        for ids, real in zip(batch.input_ids, batch.real, strict=True):
            row = ids[real][None, :ROW].to(model.device, torch.long)
            if sum(map(len, losses)) + row.shape[1] - 1 > TOKENS:
                break
            try:
                logits = model(input_ids=row).logits[0, :-1].float()
            except Exception:  # a head that wants more than tokens says nothing about the blocks
                return None
            losses.append(torch.nn.functional.cross_entropy(logits, row[0, 1:].to(logits.device), reduction="none"))
    if not sum(map(len, losses)):
        return None
    return FirstLoss(torch.cat(losses).mean().item(), math.log(logits.shape[-1]))
