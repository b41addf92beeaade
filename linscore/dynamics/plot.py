"""Results as pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linscore.dynamics.series import Dynamics
from linscore.probing.features import POOLED
from linscore.probing.probe import Probing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_dynamics", "plot_probing"]

_UNEVEN = 8  # the last step is so many times the median one: on a linear axis the first half would be a heap
_SCORES = {
    "linearity_heldout": "linearity",
    "linearity_no_residual_heldout": "linearity\nwithout residual",
}


def plot_dynamics(dynamics: Dynamics, path: Path) -> None:
    """Draw the held-out scores over the steps, with and without residual: the mean over the blocks, and each block.

    Args:
        dynamics: the series.
        path: of the PNG.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(len(_SCORES), sharex=True)
    colours = ScalarMappable(Normalize(0, max(1, dynamics.depth - 1)), "viridis")
    for panel, name in zip(panels, _SCORES, strict=True):
        _draw_score(panel, dynamics, name, colours)
        panel.set_ylabel(f"{_SCORES[name]}\n(held out)")
    positive = [step for step in dynamics.steps if step > 0]
    if positive and max(positive) > _UNEVEN * statistics.median(positive):
        panels[-1].set_xscale("symlog", linthresh=min(positive))
    panels[0].legend(frameon=False)
    panels[-1].set_xlabel("step")
    figure.colorbar(colours, ax=panels, label="block", ticks=_ticks(dynamics.depth))
    figure.suptitle(f"{dynamics.tokens:,} tokens, {dynamics.depth} blocks of width {dynamics.width}", fontsize="medium")
    figure.savefig(path, dpi=120)


def _draw_score(panel: Axes, dynamics: Dynamics, name: str, colours: Any) -> None:
    scored = sorted(dynamics.scored, key=lambda one: one.checkpoint.step)
    steps = [one.checkpoint.step for one in scored]
    for block in range(dynamics.depth):
        values = _gaps([one.blocks[name][block] for one in scored])
        panel.plot(steps, values, color=colours.to_rgba(block), alpha=0.45, linewidth=1, marker=".", markersize=3)
    means = _gaps([one.mean(name) for one in scored])
    panel.plot(steps, means, color="black", linewidth=2, marker="o", markersize=4, label="mean over blocks")
    panel.grid(alpha=0.3)


def plot_probing(probing: Probing, path: Path) -> None:
    """Draw accuracy and macro F1 of every layer's probe, a standard deviation to either side, and the baseline.

    Args:
        probing: the probes.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    panel = figure.subplots()
    layers = [one.layer for one in probing.layers]
    for name, label, colour in (("accuracy", "accuracy", "tab:blue"), ("macro_f1", "macro F1", "tab:orange")):
        figures = [(getattr(one, name), getattr(one, f"{name}_std")) for one in probing.layers]
        panel.plot(layers, [mean for mean, _ in figures], color=colour, marker="o", markersize=4, label=label)
        low, high = zip(*((mean - spread, mean + spread) for mean, spread in figures), strict=True)
        panel.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.axhline(
        probing.majority, color="tab:blue", linestyle="--", linewidth=1, label="always the most frequent class"
    )
    panel.set(
        xlabel="layer (0: embeddings)",
        ylabel=f"held out: mean and standard\ndeviation over {probing.folds} folds",
        xticks=_ticks(len(layers)),
    )
    panel.set_title(
        f"{probing.texts:,} texts, {len(probing.classes)} classes, {POOLED[probing.pool]}", fontsize="medium"
    )
    panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def _gaps(values: Sequence[float | None]) -> list[float]:
    """What is not defined leaves a gap in the line."""
    return [math.nan if value is None else value for value in values]


def _ticks(count: int) -> list[int]:
    """At most 13 whole numbers of 0 to `count` − 1."""
    return list(range(0, count, -(-count // 13)))
