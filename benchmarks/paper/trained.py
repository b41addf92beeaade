"""Decoders trained from nothing, plain and regularized: committed runs of three seeds, or the paper's sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.paper.setting import Run, Setting

SEEDS = Path(__file__).parents[1] / "results" / "regularized-seeds.json"
ON_SEEDS = "committed runs: 1.1 M, 1,200 steps on Python, 3 seeds of each"
KINDS = ("none", "cosine", "mse")
# Of table 2 and 3: a size, a regularizer, its weight.
TABLE = (
    *(("650M", "none", 0.0), ("650M", "cosine", 0.5)),
    *(("150M", "none", 0.0), ("150M", "mse", 0.5), ("150M", "mse", 2.0), ("150M", "cosine", 0.5)),
)


def train_runs() -> list[Run]:
    """The paper's decoders, on TinyStories alone: how much of Tiny-textbooks the paper mixes in, it does not say."""
    runs = []
    for size, kind, weight in TABLE:
        penalty = () if kind == "none" else ("--regularizer", kind, "--weight", str(weight))
        data = ("--dataset", "roneneldan/TinyStories")
        runs.append(Run(f"trained/{size}-{kind}-{weight:g}", ("train", "--config", size, *data, *penalty)))
    return runs


def models(at: Setting) -> list[str]:
    """Where they are."""
    return [f"{at.place(run)}/model" for run in train_runs()]


def seeds() -> dict[str, list[Any]]:
    """The committed runs, by their regularizers, seeds in the same order."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for run in json.loads(SEEDS.read_text(encoding="utf-8"))["runs"]:
        found[run["regularizer"]].append(run)
    return found


def series(at: Setting) -> dict[str, list[Any]]:
    """Held-out scores along training, `mean` and `blocks` by figure: of the committed runs, or the paper's 650M."""
    if not at.full:
        return seeds()
    plain, regularized = (at.read(run, "linearity/dynamics.json") for run in train_runs()[:2])
    return {"none": [plain], "cosine": [regularized]}
