"""Tables and pictures of what `regularized.py` found; means and sample standard deviations over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Run = dict[str, Any]
LOSS = "loss, nats per token"
FIGURES = {
    "linearity_heldout": "linearity",
    "linearity_no_residual_heldout": "linearity w/o residual",
    "cosine": "cosine of consecutive states",
}
COLOURS = {"none": "black", "cosine": "tab:blue", "mse": "tab:orange"}  # a decoder beside the runs: grey


def markdown(found: dict[str, Any]) -> str:
    """All tables."""
    runs = found["runs"]
    settings, step = runs[0]["settings"], last_common_step(runs)
    tokens = settings["batch_size"] * settings["seq_len"]
    weights = sorted({run["settings"]["weight"] for run in runs if run["regularizer"] != "none"})
    lines = [f"# Plain and regularized training, {found['config']}", ""]
    lines += [f"- {name}: {value}" for name, value in found["facts"].items()]
    lines += [
        f"- {settings['steps']:,} steps of {tokens:,} tokens, λ = {', '.join(map(str, weights))}; "
        f"held out: {settings['heldout_tokens']:,} tokens",
        "- means over blocks, all held out; ± sample standard deviation over seeds; losses of next tokens alone",
    ]
    lines += [
        f"- {run['regularizer']}, seed {run['seed']}: stopped at step {run['steps'][-1]:,}"
        for run in runs
        if run["steps"][-1] < run["settings"]["steps"]
    ]
    lines += ["", f"## At step {step:,}", "", *_at(runs, step), "", "## Along training", "", *_along(runs), ""]
    done = finished(found)
    if done:
        lines += ["## Trained to the end", "", *_finished(done), "", "## Each block, trained to the end", ""]
        lines += [*_blocks(done), ""]
    return "\n".join(lines)


def finished(found: dict[str, Any]) -> list[Run]:
    """The runs that came to their end, and the decoder beside them."""
    done = [run for run in found["runs"] if "final" in run]
    return done + ([{"regularizer": found["beside"]["model"], **found["beside"]}] if "beside" in found else [])


def _at(runs: list[Run], step: int) -> list[str]:
    rows = [[name, len(same), *_figures(same, step)] for name, same in _groups(runs).items()]
    return _table(["regularizer", "seeds", LOSS, *FIGURES.values()], rows)


def _along(runs: list[Run]) -> list[str]:
    rows = []
    for step in sorted({step for run in runs for step in run["steps"]}):
        for name, same in _groups(runs).items():
            there = [run for run in same if step in run["steps"]]
            if there:
                rows.append([f"{step:,}", name, *_figures(there, step)])
    return _table(["step", "regularizer", LOSS, *FIGURES.values()], rows)


def _figures(runs: list[Run], step: int) -> list[str]:
    losses = spread(run["heldout_loss"][run["steps"].index(step)] for run in runs)
    return [losses, *(spread(run["mean"][figure][run["steps"].index(step)] for run in runs) for figure in FIGURES)]


def _blocks(runs: list[Run]) -> list[str]:
    depth = range(len(runs[0]["final"]["blocks"]["cosine"]))
    rows = [
        [label, name, *(spread(run["final"]["blocks"][figure][block] for run in same) for block in depth)]
        for figure, label in FIGURES.items()
        for name, same in _groups(runs).items()
    ]
    return _table(["", "regularizer", *(f"block {block}" for block in depth)], rows)


def _finished(runs: list[Run]) -> list[str]:
    """Bits per byte, scores and probes: the mean over all layers, and each layer."""
    layers = range(len(runs[0]["probes"]["layers"]))
    probes = runs[0]["probes"]
    rows = []
    for name, same in _groups(runs).items():
        found = [[one["accuracy"] for one in run["probes"]["layers"]] for run in same]
        means = spread(map(statistics.fmean, found))
        each = [spread((run[layer] for run in found), 3) for layer in layers]
        scores = [spread(run["final"]["mean"][figure] for run in same) for figure in FIGURES]
        rows.append([name, spread(run["bits_per_byte"] for run in same), *scores, means, *each])
    heads = ["", "bits per byte", *FIGURES.values(), "probe accuracy, mean", *(f"layer {layer}" for layer in layers)]
    note = f"Probes: {probes['texts']} passages of ten modules; always the most frequent: {probes['majority']:.3f}."
    return [*_table(heads, rows), "", note]


def draw(found: dict[str, Any], path: Path) -> list[Path]:
    """Figure 2 of the paper (scores along training), and its figures 4 and 5 (each block, each layer's probe)."""
    several = len({run["seed"] for run in found["runs"]}) > 1
    title = f"{found['config']}{', mean over seeds and each seed' if several else ''}: held out"
    pictures = {"training": _along_training(found["runs"], title)}
    if finished(found):
        pictures["blocks"] = _each_block(finished(found), title)
    paths = {name: path.with_name(f"{path.stem}-{name}.png") for name in pictures}
    for name, picture in pictures.items():
        picture.savefig(paths[name], dpi=110)
    return list(paths.values())


def _along_training(runs: list[Run], title: str) -> Figure:
    picture = Figure(figsize=(11, 7), layout="constrained")
    panels = picture.subplots(2, 2, sharex=True).flat
    _curves(next(panels), runs, LOSS, lambda run: zip(run["steps"], run["heldout_loss"], strict=True))
    for figure, label in FIGURES.items():
        _curves(next(panels), runs, label, lambda run, f=figure: zip(run["steps"], run["mean"][f], strict=True))
    picture.supxlabel("step")
    picture.suptitle(f"{title}, means over the blocks")
    return picture


def _each_block(runs: list[Run], title: str) -> Figure:
    picture = Figure(figsize=(11, 7), layout="constrained")
    panels = picture.subplots(2, 2).flat
    for figure, label in FIGURES.items():
        _curves(next(panels), runs, label, lambda run, f=figure: enumerate(run["final"]["blocks"][f]), "block")
    _curves(
        next(panels),
        runs,
        "accuracy of linear probes",
        lambda run: ((one["layer"], one["accuracy"]) for one in run["probes"]["layers"]),
        "layer (0: embeddings)",
    )
    picture.suptitle(f"{title}, each block, trained to the end")
    return picture


def _curves(
    panel: Axes, runs: list[Run], label: str, points: Callable[[Run], Iterable[tuple[int, float | None]]], x: str = ""
) -> None:
    """The mean over the seeds of each regularizer; where there are several, each seed as a thin line."""
    for name, same in _groups(runs).items():
        found = [{place: value for place, value in points(run) if value is not None} for run in same]
        places = sorted(set.union(*map(set, found)))
        means = [statistics.fmean(one[place] for one in found if place in one) for place in places]
        colour = COLOURS.get(name, "grey")
        panel.plot(places, means, color=colour, marker="o", markersize=3, label=name)
        for one in found if len(found) > 1 else []:
            panel.plot(list(one), list(one.values()), color=colour, linewidth=0.7, alpha=0.5)
    panel.set(title=label, xlabel=x)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)


def last_common_step(runs: list[Run]) -> int:
    """The last step at which every run was scored."""
    return max(set.intersection(*(set(run["steps"]) for run in runs)))


def spread(values: Iterable[float | None], digits: int = 4) -> str:
    """Mean ± sample standard deviation; a dash where nothing is known."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.{digits}f}{deviation}"


def _groups(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs of each regularizer."""
    return {
        name: [run for run in runs if run["regularizer"] == name] for name in {run["regularizer"]: None for run in runs}
    }


def _table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]
