"""Results as pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linscore.dynamics.series import Dynamics
from linscore.pictures import picture, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_dynamics"]

_UNEVEN = 8  # the last step is so many times the median one: on a linear axis the first half would be a heap

_SCORES = {
    "linearity_heldout": "linearity",
    "linearity_no_residual_heldout": "linearity\nwithout residual",
}


def plot_dynamics(dynamics: Dynamics, path: Path) -> None:
    """Draw the held-out scores over the steps, with and without residual: the mean over the blocks, and each block.

    Args:
        dynamics: the series.
        path: of the file, .png or .svg.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(0, max(1, dynamics.depth - 1)), "viridis")
    positive = [step for step in dynamics.steps if step > 0]
    title = f"{dynamics.tokens:,} tokens, {dynamics.depth} blocks of width {dynamics.width}"
    with picture(path, len(_SCORES), 6) as (figure, panels):
        for panel, name in zip(panels, _SCORES, strict=True):
            _draw_score(panel, dynamics, name, colours)
            panel.set_ylabel(f"{_SCORES[name]}\n(held out)")
        if positive and max(positive) > _UNEVEN * statistics.median(positive):
            panels[-1].set_xscale("symlog", linthresh=min(positive))
        panels[0].legend(frameon=False)
        panels[-1].set_xlabel("step")
        figure.colorbar(colours, ax=panels, label="block", ticks=ticks(dynamics.depth))
        figure.suptitle(title, fontsize="medium")


def _draw_score(panel: Axes, dynamics: Dynamics, name: str, colours: Any) -> None:
    scored = sorted(dynamics.scored, key=lambda one: one.checkpoint.step)
    steps = [one.checkpoint.step for one in scored]
    for block in range(dynamics.depth):
        values = _gaps([one.blocks[name][block] for one in scored])
        panel.plot(steps, values, color=colours.to_rgba(block), alpha=0.45, linewidth=1, marker=".", markersize=3)
    means = _gaps([one.mean(name) for one in scored])
    panel.plot(steps, means, color="black", linewidth=2, marker="o", markersize=4, label="mean over blocks")


def _gaps(values: Sequence[float | None]) -> list[float]:
    """What is not defined leaves a gap in the line."""
    return [math.nan if value is None else value for value in values]
