"""The loss curves of a distillation as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linscore.distillation.folder import DistilLoss
from linscore.pictures import picture

LABELS = {
    "hidden": "states: share of variance\nmissed, sum over blocks",
    "kl": "KL from the teacher\n(nats per token)",
    "lm": "next-token loss\n(nats per token)",
}
WINDOW = 50  # the mean runs over this part of all steps


def plot_losses(curve: Sequence[DistilLoss], path: Path) -> None:
    """Draw each loss that was computed over the steps, with its running mean, as a PNG at `path`."""
    steps = [loss.step for loss in curve]
    names = [name for name in LABELS if getattr(curve[0], name) is not None]
    with picture(path, len(names), 1 + 2.5 * len(names)) as (_, panels):
        for panel, name in zip(panels, names, strict=True):
            values = [getattr(loss, name) for loss in curve]
            panel.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=1, label="each step")
            mean = _running_mean(values, max(1, len(steps) // WINDOW))
            panel.plot(steps, mean, color="tab:blue", label="running mean")
            panel.set(yscale="log", ylabel=LABELS[name])
            panel.yaxis.set_major_formatter("{x:g}")
            low, high = panel.get_ylim()
            panel.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")  # over decades they would overlap
            panel.grid(alpha=0.3, which="minor")
        panels[0].legend(frameon=False)
        panels[-1].set_xlabel("step")


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window` − 1 before it."""
    starts = [max(0, end - window) for end in range(1, len(values) + 1)]
    return [sum(values[start:end]) / (end - start) for end, start in enumerate(starts, 1)]
