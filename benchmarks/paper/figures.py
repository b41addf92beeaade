"""One function a figure and table of the paper: what is run, and what came out."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.paper.setting import TASKS, Setting

Found = dict[str, Any]
COUNTS = (1, 2, 3)
KINDS = ("none", "cosine", "mse")
SEEDS = Path(__file__).parents[1] / "results" / "regularized-seeds.json"


def figure_1(at: Setting) -> Found:
    """Linearity of every block, with residual."""
    return {name: _mean(report, "linearity_heldout") for name, report in _scored(at).items()}


def figure_2(at: Setting) -> Found:
    """Linearity of the blocks while a decoder is trained, from the first scores behind the start on."""
    runs = _runs(at)["none"]
    return {"first": _over_seeds(runs, 1), "last": _over_seeds(runs, -1), "seeds": len(runs)}


def figure_3(at: Setting) -> Found:
    """What a block adds, against what enters it: the median of ‖δ‖/‖x‖ over the blocks behind the first."""
    ratios = {name: [block["delta_ratio"] for block in report["blocks"][1:]] for name, report in _scored(at).items()}
    return {name: statistics.median(values) for name, values in ratios.items()}


def figure_4(at: Setting) -> Found:
    """Linearity at the end of training with each regularizer, beside the plain one."""
    return {kind: _over_seeds(runs, -1) for kind, runs in _runs(at).items()}


def figure_5(at: Setting) -> Found:
    """Labels read off the states, of a plain and a regularized decoder: the best layer's accuracy."""
    found = {}
    for model in ("embedded", "embedded-cosine"):
        layers = at.printed(f"figure-5-{model}.json", "probe", model, "--data", str(at.labelled))["layers"]
        found[model] = max(layer["accuracy"] for layer in layers)
    return found


def figure_6(at: Setting) -> Found:
    """Blocks dropped, the most linear first: nats a token added."""
    return _cut(at, "prune", "--drop")


def figure_7(at: Setting) -> Found:
    """The same blocks replaced by affine maps."""
    return _cut(at, "linearize", "--replace")


def figure_8(at: Setting) -> Found:
    """The same maps, distilled towards the original."""
    _cut(at, "linearize", "--replace")
    text, steps = str(at.training_text), [] if at.full else ["--steps", "60"]
    folders = [
        at.linscore(f"distil-{count}", "distil", str(at.out / f"linearize-{count}"), "--text", text, *steps)
        for count in COUNTS
    ]
    return _added(at, "distil", list(map(str, folders)))


def figure_9(at: Setting) -> Found:
    """Errors of single tokens: how much worse the worst 1 % are than the median."""
    found = at.linscore("figure-9", "tokens", at.models[0], *at.text)
    blocks = json.loads((found / "tokens.json").read_text())["blocks"][1:]
    return {"99 % over 50 %": statistics.median(one["quantiles"]["0.99"] / one["quantiles"]["0.5"] for one in blocks)}


def table_1(at: Setting) -> Found:
    """Linearity before and after fine-tuning."""
    seeds = ["--seeds", "3"] if at.full else ["--seeds", "2", "--epochs", "1"]
    data = ["--data", str(at.labelled), *seeds]
    delta = at.printed("table-1.json", "finetune-delta", at.models[0], *data)["delta"]["linearity_heldout"]["mean"]
    return {"change": delta["mean"], "error": delta["std"] / int(seeds[1]) ** 0.5}


def table_2(at: Setting) -> Found:
    """Plain and regularized pretraining: loss on held-out text, and tasks on a machine with a Hub."""
    return {kind: statistics.fmean(run["loss"] for run in runs) for kind, runs in _runs(at).items()}


FIGURES: dict[str, Callable[[Setting], Found]] = {
    "Figure 1": figure_1,
    "Figure 2": figure_2,
    "Figure 3": figure_3,
    "Figure 4": figure_4,
    "Figure 5": figure_5,
    "Figure 6": figure_6,
    "Figure 7": figure_7,
    "Figure 8": figure_8,
    "Figure 9": figure_9,
    "Table 1": table_1,
    "Table 2": table_2,
}


def _scored(at: Setting) -> dict[str, Any]:
    folders = {name: at.linscore(f"scores/{name.replace('/', '-')}", "score", name, *at.text) for name in at.models}
    return {name: json.loads((folder / "report.json").read_text()) for name, folder in folders.items()}


def _mean(report: Any, figure: str) -> float:
    return statistics.fmean(block[figure] for block in report["blocks"] if block[figure] is not None)


def _runs(at: Setting) -> dict[str, list[Any]]:
    """Of each regularizer the runs of all seeds: mean scores along training, and the loss on held-out text."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    if not at.full:  # hours on two cores: what was run and committed once
        for run in json.loads(SEEDS.read_text(encoding="utf-8"))["runs"]:
            found[run["regularizer"]].append({"mean": run["mean"], "loss": run["heldout_loss"][-1]})
        return found
    folders = [str(_trained(at, kind) / "model") for kind in KINDS]
    rows = at.printed("table-2.json", "evaluate", *folders, *at.text, "--tasks", TASKS)["evaluations"]
    for kind, row in zip(KINDS, rows, strict=True):
        series = json.loads((_trained(at, kind) / "linearity" / "dynamics.json").read_text(encoding="utf-8"))
        found[kind].append({"mean": series["mean"], "loss": row["loss"], "tasks": row["tasks"]})
    return found


def _trained(at: Setting, kind: str) -> Path:
    """A decoder trained from nothing, with its scores along the way."""
    penalty = [] if kind == "none" else ["--regularizer", kind, "--weight", "0.5"]
    return at.linscore(f"trained/{kind}", "train", "--config", "150M", *penalty)


def _over_seeds(runs: list[Any], at: int) -> float:
    """A score without residual at one place of the series, the mean over seeds."""
    return statistics.fmean(run["mean"]["linearity_no_residual_heldout"][at] for run in runs)


def _cut(at: Setting, command: str, flag: str) -> Found:
    """The first blocks by the paper's figure, in-sample linearity, cut; and what that adds to the loss."""
    scores = at.linscore("scores/for-cuts", "score", "embedded", "--text", str(at.training_text))
    by = ["--by", "linearity", "--moments", str(scores)]
    folders = [at.linscore(f"{command}-{count}", command, "embedded", flag, str(count), *by) for count in COUNTS]
    return _added(at, command, list(map(str, folders)))


def _added(at: Setting, name: str, folders: list[str]) -> Found:
    rows = at.printed(f"evaluated-{name}.json", "evaluate", "embedded", *folders, *at.measured)["evaluations"]
    return {str(count): row["loss"] - rows[0]["loss"] for count, row in zip(COUNTS, rows[1:], strict=True)}
