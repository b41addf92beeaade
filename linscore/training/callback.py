"""Linearity while a model is trained: the scores of fixed held-out batches, every so many steps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from linscore.collect import Batch
from linscore.errors import LinscoreError
from linscore.report import Report
from linscore.score import score

__all__ = ["LinearityCallback"]

FIGURES = ("linearity_heldout", "linearity_no_residual_heldout")
SCORES = ("linearity", "linearity_no_residual", *FIGURES)
FILE = "linearity.jsonl"


class LinearityCallback(TrainerCallback):
    """Scores the model that is trained, every `every` steps and at the end, without an effect on the training.

        trainer.add_callback(LinearityCallback(batches, every=500, out="scores", trainer=trainer))

    The Trainer logs `linearity_heldout` and `linearity_no_residual_heldout`, means over the blocks, and the same for
    each block: `linearity_heldout/block_3`. Every process scores, since the others would only wait; the first writes.

    Args:
        batches: held-out text, as `linscore.score` takes it: read anew at each scoring, so a list or the like, with at
            least 10 tokens per feature where figures are to mean much.
        every: optimizer steps between two scorings.
        out: folder of `linearity.jsonl`, to which each scoring appends one object: `step`, `epoch`, `tokens`, the two
            means, and `blocks`, with the in-sample scores too.
        trainer: whose `log` is to be used, so that the figures go wherever `report_to` says: a callback is not told
            which Trainer calls it. Without one they only go into the log history.

    Raises:
        LinscoreError: if `every` is below 1 or `batches` can be read only once; while training, as `linscore.score`.
    """

    def __init__(
        self, batches: Iterable[Batch], every: int, out: str | Path | None = None, trainer: Trainer | None = None
    ) -> None:
        if every < 1:
            raise LinscoreError(f"every is {every}: give the number of steps between two scorings, 1 or more")
        if iter(batches) is batches:
            raise LinscoreError("the batches can be read only once, but are scored many times: give a list of them")
        self._batches, self._every, self._trainer = batches, every, trainer
        self._file = None if out is None else Path(out) / FILE
        self._scored = -1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Score where it is time."""
        # The last step counts too: on_train_end comes after the trackers have been closed.
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self._every == 0 or last:
            self._take(args, state, control, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score a training that was stopped between two steps."""
        if self._scored != state.global_step:
            self._take(args, state, control, kwargs["model"])

    def _take(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module) -> None:
        self._scored = state.global_step
        devices = [args.device] if args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            report = score(model, self._batches, spectra=False)
        means = {name: mean for name in FIGURES if (mean := _mean(report, name)) is not None}
        self._log({**means, **_by_block(report)}, state, control)
        if self._file is not None and state.is_world_process_zero:
            blocks = [{name: getattr(block, name) for name in ("index", *SCORES)} for block in report.blocks]
            line = {"step": state.global_step, "epoch": state.epoch, "tokens": report.tokens, **means, "blocks": blocks}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _log(self, figures: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        if self._trainer is None:
            state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})
            return
        wanted = control.should_log
        self._trainer.log(figures)
        control.should_log = wanted  # logging takes it back, and the loss of this step is still to be logged


def _mean(report: Report, name: str) -> float | None:
    """Over the blocks that have this figure; None where none has."""
    figures = [figure for block in report.blocks if (figure := getattr(block, name)) is not None]
    return fmean(figures) if figures else None


def _by_block(report: Report) -> dict[str, float]:
    named = ((f"{name}/block_{block.index}", getattr(block, name)) for name in FIGURES for block in report.blocks)
    return {name: figure for name, figure in named if figure is not None}
