"""Growth with tokens, width and blocks, from a results file: python benchmarks/plot.py results/nvidia-h200.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# group of rows, key of the horizontal axis, its label, title
PANELS = (
    ("growth in tokens", "n", "tokens", "one pass over a block's states"),
    ("gram", "d", "width d of the residual stream", "the Gram products"),
    ("growth in blocks", "blocks", "decoder blocks", "scoring a decoder (without the solves)"),
)


def draw(path: Path) -> Path:
    """Draw the three panels beside the results file; returns the picture's path."""
    results = json.loads(path.read_text(encoding="utf-8"))
    figure = Figure(figsize=(16, 6), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for panel, (group, key, label, title) in zip(axes, PANELS, strict=True):
        rows = [row for row in results["rows"] if row["group"] == group and "median_s" in row]
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds (median)", title=_titled(title, key, rows))
        draw_panel(panel, sorted(rows, key=lambda row: row[key]), key)
    figure.suptitle(f"{results['facts']['device']}, {results['facts']['date']}")
    picture = path.with_name(f"{path.stem}-growth.png")
    figure.savefig(picture, dpi=120)
    return picture


def draw_panel(panel: Axes, rows: list[dict[str, Any]], key: str) -> None:
    """Ours, the floor and every peer over one key of the rows."""
    if not rows:
        panel.text(0.5, 0.5, "not measured", ha="center", transform=panel.transAxes)
        return
    ticks = [row[key] for row in rows]
    panel.plot(ticks, [row["median_s"] for row in rows], "o-", color="black", linewidth=2.5, label="linscore")
    panel.plot(ticks, [row["floor_s"] for row in rows], "--", color="grey", label="physical floor")
    for name in dict.fromkeys(name for row in rows for name in row["peers"]):
        points = [(row[key], row["peers"][name]["median_s"]) for row in rows if name in row["peers"]]
        panel.plot(*zip(*points, strict=True), ".-", linewidth=1, label=name)
    panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=8)


def _titled(title: str, key: str, rows: list[dict[str, Any]]) -> str:
    """The title and what is the same in all rows."""
    if not rows:
        return title
    fixed = {"n": f"d = {rows[0].get('d')}", "d": f"{rows[0].get('n', 0):,} tokens", "blocks": rows[0].get("decoder")}
    return f"{title}\n{fixed[key]}, {rows[0]['dtype']}"


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
