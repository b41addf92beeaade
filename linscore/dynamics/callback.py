"""Linearity while a model is trained: the scores of fixed held-out batches, every so many steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from linscore.dynamics.folder import DynamicsFolder
from linscore.dynamics.series import Checkpoint, Dynamics, ScoredCheckpoint
from linscore.errors import LinscoreError
from linscore.regularization.trainer import log_beside
from linscore.scoring.report import Report
from linscore.scoring.score import score
from linscore.text.batch import Batch, TokenDigest

__all__ = ["LinearityCallback"]

LOGGED = ("linearity_heldout", "linearity_no_residual_heldout")


class LinearityCallback(TrainerCallback):
    """Scores the model that is trained, every `every` steps, before the first and at the end; the training is the same.

        trainer.add_callback(LinearityCallback(batches, every=500, out="series", trainer=trainer))

    The Trainer logs `linearity_heldout` and `linearity_no_residual_heldout`, means over the blocks, and the same for
    each block: `linearity_heldout/block_3`. Every process scores, since the others would only wait; the first writes.

    Args:
        batches: held-out text, as `linscore.score` takes it: read anew at each scoring, so a list or the like, with at
            least 10 tokens per feature where figures are to mean much.
        every: optimizer steps between two scorings.
        out: folder of a series as `linscore dynamics` writes it: `STEP/report.json` of each scoring, `dynamics.json`
            over all, and at the end `dynamics.png`. A training that is resumed goes on with its own series.
        trainer: whose callbacks are told, so that the figures go wherever `report_to` says: a callback is not told
            which Trainer calls it. Without one they only go into the log history. A `log` of the Trainer's own class is
            passed by, since trl's empty metrics that belong to the loss.

    Raises:
        LinscoreError: if `every` is below 1 or `batches` can be read only once; while training, as `linscore.score`,
            or if `out` holds another series.

    Examples:
        >>> callback = linscore.LinearityCallback(batches, every=500, out="series")
        >>> type(callback).__mro__[1].__name__
        'TrainerCallback'
    """

    def __init__(
        self, batches: Iterable[Batch], every: int, out: str | Path | None = None, trainer: Trainer | None = None
    ) -> None:
        if every < 1:
            raise LinscoreError(f"every is {every}: give the number of steps between two scorings, 1 or more")
        if iter(batches) is batches:
            raise LinscoreError("the batches can be read only once, but are scored many times: give a list of them")
        self._batches, self._every, self._trainer = batches, every, trainer
        self._folder = None if out is None else DynamicsFolder(out)
        self._series: Dynamics | None = None
        self._scored = -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go back to where the series was at this step, or begin it with the untrained model."""
        if self._folder is not None and state.is_world_process_zero:
            self._series = _before(self._folder, state.global_step)
            if self._series is not None and state.global_step in self._series.steps:
                self._scored = state.global_step  # a training that is resumed at its end has that already
        if state.global_step == 0:
            self._take(args, state, control, kwargs["model"])

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
        if self._folder is not None and self._series is not None:
            self._folder.draw(self._series)

    def _take(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module) -> None:
        self._scored = state.global_step
        devices = [args.device] if args.device.type == "cuda" else []
        digest = TokenDigest()
        with torch.random.fork_rng(devices=devices):
            report = score(model, digest.watch(self._batches), spectra=False)
        scored = ScoredCheckpoint.of(Checkpoint(state.global_step, f"step {state.global_step}"), None, report)
        self._log(_logged(scored), state, control)
        if self._folder is not None and state.is_world_process_zero:
            self._keep(self._folder, scored, report, str(digest))

    def _keep(self, folder: DynamicsFolder, scored: ScoredCheckpoint, report: Report, digest: str) -> None:
        series = _series_of(report, digest) if self._series is None else self._series
        if (series.token_digest, series.depth, series.width) != (digest, report.depth, report.width):
            raise LinscoreError(f"{folder.path} holds the series of another model or text: give another out")
        self._series = replace(series, scored=[*series.scored, scored])
        folder.write(self._series)
        folder.write_report(scored.checkpoint.step, report)

    def _log(self, figures: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        if self._trainer is None:
            state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})
        else:
            log_beside(self._trainer, control, figures)


def _before(folder: DynamicsFolder, step: int) -> Dynamics | None:
    """The series that a training goes on with from `step`; what was scored later is replaced when it writes."""
    series = folder.load()
    if series is None:
        return None
    if step == 0:
        raise LinscoreError(f"{folder.path} holds a series already: give another out, or resume its training")
    return replace(series, scored=[one for one in series.scored if one.checkpoint.step <= step])


def _series_of(report: Report, digest: str) -> Dynamics:
    """A series with nothing in it."""
    return Dynamics(
        scored=[],
        text="held-out batches",
        tokens=report.tokens + report.nonfinite_rows,
        token_digest=digest,
        vocabulary_digest="",  # a model of its own has no other
        depth=report.depth,
        width=report.width,
        settings={"trainer": True},
        versions=report.versions,
    )


def _logged(scored: ScoredCheckpoint) -> dict[str, float]:
    """Means over the blocks, and each block's figures; those that are not defined are left out."""
    means = {name: scored.mean(name) for name in LOGGED}
    blocks = {f"{name}/block_{i}": figure for name in LOGGED for i, figure in enumerate(scored.blocks[name])}
    return {name: figure for name, figure in {**means, **blocks}.items() if figure is not None}
