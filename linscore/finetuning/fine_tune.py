"""Fine-tuning a decoder with a head, by transformers' Trainer: cross entropy of classes, or preferences.

reward modelling:  −log σ(r(chosen) − r(rejected))       (Bradley and Terry)
"""

# ruff: noqa: ARG002 (a callback is told everything)

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from linscore.decoder.call import evaluating
from linscore.errors import LinscoreError, above_zero, at_least
from linscore.finetuning.examples import Examples
from linscore.machine.processes import ALONE, Processes, check_joined
from linscore.text.tokens import pad_right

RATE_TIMES_WIDTH = 0.08  # decisions: Learning rates by width

__all__ = ["Finetuning", "accuracy", "fine_tune"]


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """How a model is fine-tuned: AdamW, a tenth of the steps to warm up, then linearly down to 0.

    Attributes:
        epochs: passes over the examples.
        batch_size: examples in an update.
        learning_rate: its peak; None: what suits the model's width (see `for_width`).

    Raises:
        LinscoreError: for a value that cannot be used.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        if self.learning_rate is not None:
            above_zero("learning_rate", self.learning_rate)

    def for_width(self, width: int) -> Finetuning:
        """The same with a learning rate, where it has none: 2e-5 for states of 4,096 features, more for fewer."""
        return self if self.learning_rate is not None else replace(self, learning_rate=RATE_TIMES_WIDTH / width)

    def steps(self, examples: int) -> int:
        """Updates on so many examples."""
        return self.epochs * -(-examples // self.batch_size)


def fine_tune(
    model: PreTrainedModel,
    examples: Examples,
    places: Sequence[int],
    settings: Finetuning,
    *,
    seed: int,
    progress: Callable[[int, float], None],
    processes: Processes = ALONE,
) -> None:
    """Train all weights of `model` in place on the examples at `places`.

    Args:
        model: as `load_with_head` gives it.
        examples: of classes or pairs.
        places: in any order.
        settings: see `Finetuning`; with a learning rate.
        seed: of the order.
        progress: called after each update with their number and the loss.
        processes: which share each batch; all of them call this with the same, but for the device of the model.

    Raises:
        LinscoreError: when the loss is no longer finite, a batch cannot be shared, or one process is to use several
            GPUs or another than the first.
    """
    with tempfile.TemporaryDirectory() as folder:  # the Trainer wants one
        arguments = _arguments(folder, settings, model.device.type, len(places), seed, processes)
        if arguments.n_gpu > 1 or (model.device.index or 0) != (arguments.device.index or 0):
            raise LinscoreError("fine-tuning runs on one GPU, the first: set CUDA_VISIBLE_DEVICES to the one to use")
        trainer = _HeadTrainer(
            model=model,
            args=arguments,
            train_dataset=list(places),
            data_collator=lambda chosen: _batch(examples, chosen, model.config.pad_token_id),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Progress(progress))
        trainer.train()


def _arguments(
    folder: str, settings: Finetuning, device: str, examples: int, seed: int, processes: Processes
) -> TrainingArguments:
    """What the Trainer is told."""
    assert settings.learning_rate is not None  # `for_width` gives one
    arguments = TrainingArguments(
        folder,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=processes.part_of(settings.batch_size),
        learning_rate=settings.learning_rate,
        warmup_steps=settings.steps(examples) // 10,
        seed=seed,
        use_cpu=device == "cpu",
        bf16=device == "cuda",
        dataloader_pin_memory=device == "cuda",
        average_tokens_across_devices=False,  # the loss is a mean already, which the Trainer would multiply
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    check_joined(arguments.world_size)
    return arguments


@torch.no_grad()
def accuracy(model: PreTrainedModel, examples: Examples, places: Sequence[int], batch_size: int) -> float:
    """Share of the examples at `places` whose class, or whose preferred text, the head tells."""
    right = 0
    with evaluating(model):
        for start in range(0, len(places), batch_size):
            batch = _batch(examples, places[start : start + batch_size], model.config.pad_token_id)
            labels = batch.pop("labels", None)
            logits = model(**{name: value.to(model.device) for name, value in batch.items()}).logits.cpu()
            told = logits.argmax(1) == labels if labels is not None else torch.gt(*logits[:, 0].chunk(2))
            right += int(told.sum())
    return right / len(places)


class _HeadTrainer(Trainer):
    """Batches without labels are pairs: the chosen texts, then the rejected ones."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if "labels" in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**inputs)
        chosen, rejected = outputs.logits[:, 0].chunk(2)
        loss = -logsigmoid(chosen - rejected).mean()
        return (loss, outputs) if return_outputs else loss


class _Progress(TrainerCallback):
    def __init__(self, tell: Callable[[int, float], None]) -> None:
        self._tell = tell

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = kwargs["logs"].get("loss")
        if loss is not None and not torch.isfinite(torch.tensor(loss)):
            raise LinscoreError(f"the loss of step {state.global_step} is not finite: give a lower `learning_rate`")
        if loss is not None:
            self._tell(state.global_step, loss)


def _batch(examples: Examples, places: Sequence[int], padding: int) -> dict[str, Tensor]:
    """The texts of some examples, `[B, T]`, or `[2B, T]` of pairs, first the chosen ones; `labels` `[B]` of classes."""
    columns = zip(*(examples.ids[place] for place in places), strict=True)
    ids, mask = pad_right([ids for column in columns for ids in column], padding)
    batch = {"input_ids": ids, "attention_mask": mask}
    if examples.labels is not None:
        batch["labels"] = torch.tensor([examples.labels[place] for place in places])
    return batch
