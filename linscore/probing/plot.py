"""The accuracy of every layer's probe as a picture."""

from __future__ import annotations

from pathlib import Path

from linscore.pictures import picture, ticks
from linscore.probing.features import POOLED
from linscore.probing.probe import Probing


def plot_probing(probing: Probing, path: Path) -> None:
    """Draw accuracy and macro F1 of every layer's probe, a standard deviation to either side, and the baseline.

    Args:
        probing: the probes.
        path: of the file, .png or .svg.
    """
    layers = [one.layer for one in probing.layers]
    with picture(path, 1, 4.5) as (figure, [panel]):
        for name, label, colour in (("accuracy", "accuracy", "tab:blue"), ("macro_f1", "macro F1", "tab:orange")):
            figures = [(getattr(one, name), getattr(one, f"{name}_std")) for one in probing.layers]
            panel.plot(layers, [mean for mean, _ in figures], color=colour, marker="o", markersize=4, label=label)
            low, high = zip(*((mean - spread, mean + spread) for mean, spread in figures), strict=True)
            panel.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
        baseline = "always the most frequent class"
        panel.axhline(probing.majority, color="tab:blue", linestyle="--", linewidth=1, label=baseline)
        panel.set(
            xlabel="layer (0: embeddings)",
            ylabel=f"held out: mean and standard\ndeviation over {probing.folds} folds",
            xticks=ticks(len(layers)),
        )
        title = f"{probing.texts:,} texts, {len(probing.classes)} classes, {POOLED[probing.pool]}"
        panel.set_title(title, fontsize="medium")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
