"""The loss of held-out text while a decoder is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from linscore.decoder.call import evaluating
from linscore.regularization.trainer import log_beside

__all__ = ["HeldoutLossCallback"]


class HeldoutLossCallback(TrainerCallback):
    """Logs `heldout_loss`, in nats per token, every `every` steps and at the end.

    The Trainer's own evaluation fills the last batches of several processes up with sequences that they have had, which
    moves the mean; here every process reads everything.

    Args:
        batches: `[B, T]` int64 each, T the same.
        every: optimizer steps.
        trainer: whose callbacks are told.
    """

    def __init__(self, batches: Sequence[Tensor], every: int, trainer: Trainer) -> None:
        self._batches, self._every, self._trainer = batches, every, trainer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure where it is time."""
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            loss = _mean_loss(kwargs["model"], self._batches, args.device)
            log_beside(self._trainer, control, {"heldout_loss": loss})


@torch.no_grad()
def _mean_loss(model: nn.Module, batches: Sequence[Tensor], device: torch.device) -> float:
    total = 0.0
    with evaluating(model):
        for batch in batches:
            ids = batch.to(device)
            total += len(batch) * model(input_ids=ids, labels=ids, use_cache=False).loss.item()
    return total / sum(map(len, batches))
