"""The Trainer of a recipe: sequences in their own order, and an end with the first loss that is not finite."""

from __future__ import annotations

import os
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from linscore.errors import LinscoreError, reason
from linscore.files.whole import new_folder
from linscore.machine.processes import check_joined, on_cpu
from linscore.pretraining.checkpoints import diverged, keep_newest, remove_damaged
from linscore.pretraining.recipe import Recipe
from linscore.regularization.trainer import RegularizedTrainer

__all__ = ["PretrainingTrainer", "StopWhenDiverged", "training_arguments"]

DECAY = 0.35  # share of the steps over which "wsd" falls to zero
PATIENCE = 6 * 3600  # seconds that processes wait for the first, which reads and tokenizes the text


class PretrainingTrainer(RegularizedTrainer):
    """Remembers the first step whose loss was not finite; nothing waits for the device until somebody asks.

    Its checkpoints are whole or not there: transformers writes them in their place and leaves them to the cache.
    """

    _first_bad: Tensor | None = None
    _place: str | None = None  # where checkpoints are written meanwhile

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As the Trainer's own."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        never = torch.full((), torch.inf, device=loss.device)
        step = torch.where(loss.detach().isfinite(), never, float(self.state.global_step + 1))
        self._first_bad = step if self._first_bad is None else torch.minimum(self._first_bad, step)
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As the Trainer's own, but beside the place of the checkpoint."""
        from accelerate.utils import broadcast_object_list

        assert self.args.output_dir is not None
        folder, first = Path(self.args.output_dir), self.args.should_save
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if first:
            remove_damaged(checkpoint)
        with new_folder(checkpoint) if first else nullcontext() as new:
            [self._place] = broadcast_object_list([str(new)])  # all processes save to the folder of the first
            try:
                super()._save_checkpoint(*args, **kwargs)
            finally:
                place, self._place = self._place, None
            self.accelerator.wait_for_everyone()
            if first:
                _move_up(Path(place, checkpoint.name))
        if first:
            keep_newest(folder, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        return self._place or super()._get_output_dir(trial)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        """As the Trainer's own, but its file of arguments does not say where on this machine the run lies."""
        given, self.args = self.args, copy(self.args)
        self.args.output_dir = os.pardir  # of the checkpoint
        try:
            super()._save(*args, **kwargs)
        finally:
            self.args = given

    def first_bad_step(self) -> int | None:
        """The update, counted from 1, whose loss was not finite."""
        found = torch.inf if self._first_bad is None else float(self._first_bad)
        return None if found == torch.inf else int(found)


class StopWhenDiverged(TrainerCallback):
    """Ends a training before anything that is not finite is logged, scored (`every` so many steps) or saved.

    Raises:
        LinscoreError: at the end of such a step, with the step and the last good checkpoint.
    """

    def __init__(self, trainer: PretrainingTrainer, every: int) -> None:
        self._trainer, self._every = trainer, every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look whenever somebody is about to: each look waits for the device."""
        if not (control.should_log or control.should_save or state.global_step % self._every == 0):
            return
        step = self._trainer.first_bad_step()
        if step is None and _all_finite(kwargs["model"]):
            return
        what = f"weights are not finite after step {state.global_step}"
        if step is not None:
            what = f"the loss of step {step} is not finite"
        assert args.output_dir is not None
        raise diverged(Path(args.output_dir), what)


def _move_up(folder: Path) -> None:
    """What a folder holds goes to the one that it lies in."""
    for path in folder.iterdir():
        path.rename(folder.parent / path.name)
    folder.rmdir()


def _all_finite(model: nn.Module) -> bool:
    return all(bool(parameter.detach().isfinite().all()) for parameter in model.parameters())


def training_arguments(recipe: Recipe, folder: Path, device: str) -> TrainingArguments:
    """What the Trainer is told; its own progress bar and loss filter are off.

    Raises:
        LinscoreError: for a batch that cannot be shared out, several GPUs in one process, processes that would each
            train by itself, or a device or tracker that is not there.
    """
    cuda = torch.cuda.is_available() and device != "cpu"
    try:
        arguments = TrainingArguments(
            str(folder),
            max_steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            warmup_steps=min(recipe.warmup, recipe.steps // 10),
            weight_decay=recipe.weight_decay,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            seed=recipe.seed,
            use_cpu=on_cpu(device),
            bf16=recipe.dtype == "bfloat16" or (recipe.dtype == "auto" and cuda),
            dataloader_pin_memory=cuda,
            ddp_timeout=PATIENCE,
            train_sampling_strategy="sequential",  # the sequences come in a random order of their own
            ddp_find_unused_parameters=False,
            logging_steps=recipe.log_every,
            logging_nan_inf_filter=False,
            save_steps=recipe.save_every,
            save_total_limit=recipe.keep,
            report_to=recipe.report_to or "none",
            disable_tqdm=True,
            **_schedule(recipe),
        )
        for tracker in get_reporting_integration_callbacks(arguments.report_to):
            tracker()  # which looks for what it needs
    except (ValueError, ImportError, RuntimeError) as error:
        raise LinscoreError(f"the training cannot be set up ({reason(error)})") from error
    check_joined(arguments.world_size)
    if arguments.n_gpu > 1:
        raise LinscoreError("one process sees several GPUs: start it with torchrun, or set CUDA_VISIBLE_DEVICES to one")
    share, rest = divmod(recipe.batch_size, arguments.world_size)
    micro = recipe.micro_batch if recipe.micro_batch is not None else share
    if rest or share % micro:
        raise LinscoreError(
            f"batch_size {recipe.batch_size} cannot be shared out to {arguments.world_size} processes in micro-batches "
            f"of {micro}: give a multiple of both"
        )
    arguments.per_device_train_batch_size = micro
    arguments.gradient_accumulation_steps = share // micro
    return arguments


def _schedule(recipe: Recipe) -> dict[str, Any]:
    if recipe.schedule == "cosine":
        return {"lr_scheduler_type": "cosine"}
    decay = {"num_decay_steps": int(DECAY * recipe.steps), "decay_type": "linear"}
    return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": decay}
