"""The curve of a training, a line of figures every so many steps, which a resumed run goes on with."""

# ruff: noqa: ARG002 (a callback is told everything)

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from linscore.files.curve import append_line, read_curve, write_curve
from linscore.pictures import picture
from linscore.pretraining.checkpoints import diverged

__all__ = ["CURVE", "CurveCallback", "plot_curve"]

CURVE = "curve.jsonl"
Line = dict[str, Any]
_KEPT = ("regularizer", "cosine", "mse", "learning_rate", "grad_norm")


class CurveCallback(TrainerCallback):
    """Appends a line to `curve.jsonl` whenever the Trainer logs a loss, and with each checkpoint.

    Lines of training: `step` (updates done), `loss` (next token, nats, a mean since the last line), where there is a
    regularizer `regularizer` (what it adds) and `cosine` or `mse` (unweighted), `learning_rate`, `grad_norm`,
    `tokens_per_second`. Lines of held-out text: `step` and `heldout_loss`.

    Args:
        folder: of the curve.
        tokens: of an update, over all processes.
        progress: called with the number of updates done and the line.

    Raises:
        LinscoreError: for a figure that is not finite, with the step and the last good checkpoint.
    """

    def __init__(self, folder: Path, tokens: int, progress: Callable[[int, Line], None]) -> None:
        self._path, self._tokens, self._progress = folder / CURVE, tokens, progress
        self._since = (0, 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take back what was logged after the checkpoint that the training goes on from."""
        self._since = (state.global_step, time.perf_counter())
        if state.is_world_process_zero and self._path.exists():
            kept = [line for line in read_curve(self._path) if line["step"] <= state.global_step]
            write_curve(self._path, kept)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A line ends with each checkpoint, so that what goes on from there has the lines of the unbroken run."""
        control.should_log |= control.should_save

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what belongs to the curve."""
        line = self._line(state.global_step, kwargs["logs"])
        for name, value in (line or {}).items():
            if not math.isfinite(value):
                raise diverged(self._path.parent, f"{name} is not finite at step {state.global_step}")
        if line is not None and state.is_world_process_zero:
            append_line(self._path, line)
            self._progress(state.global_step, line)

    def _line(self, step: int, logs: dict[str, float]) -> Line | None:
        if "heldout_loss" in logs:
            return {"step": step, "heldout_loss": logs["heldout_loss"]}
        if "loss" not in logs:
            return None
        (before, then), now = self._since, time.perf_counter()
        self._since = (step, now)
        kept = {name: logs[name] for name in _KEPT if name in logs}
        rate = round((step - before) * self._tokens / (now - then))
        return {"step": step, "loss": logs["loss"] - logs.get("regularizer", 0.0), **kept, "tokens_per_second": rate}


def plot_curve(curve: Sequence[Line], path: Path) -> None:
    """Draw the losses of training and held-out text, and the regularizer where there is one, as a PNG at `path`."""
    panels = {"next-token loss\n(nats per token)": ("loss", "heldout_loss"), "regularizer\n(added)": ("regularizer",)}
    shown = {label: names for label, names in panels.items() if any(names[0] in line for line in curve)}
    with picture(path, len(shown), 1.5 + 2.5 * len(shown)) as (_, axes):
        for panel, (label, names) in zip(axes, shown.items(), strict=True):
            for name in names:
                points = [(line["step"], line[name]) for line in curve if name in line]
                style: dict[str, Any] = (
                    {"marker": "o", "color": "black"} if name == "heldout_loss" else {"color": "tab:blue"}
                )
                panel.plot(*zip(*points, strict=True), **style, label=_LABELS[name], linewidth=1, markersize=4)
            panel.set_ylabel(label)
            panel.legend(frameon=False)
        axes[-1].set_xlabel("step")


_LABELS = {"loss": "training text", "heldout_loss": "held-out text", "regularizer": "mean over the steps of a line"}
