"""What compressed decoders still answer, by a suite of others, and what they have published beside it.

Published figures are the average retained, in percent of the uncut model, each of its authors' own tasks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.studies.compress_rows import head
from linscore.errors import LinscoreError
from linscore.evaluation.result import Evaluation
from linscore.jobs.evaluate import run_evaluate
from linscore.options.cut import EvaluateOptions
from linscore.options.place import PlaceOptions

# model, what is cut, whose, retained: LinearPatch's of Llama-3-8B by its abstract, the others unchecked
PUBLISHED = (
    ("Llama-2-7B", "25 %", "ReplaceMe", "93.1 and 91.9"),
    ("Llama-2-7B", "7 of 32 blocks", "LinearPatch", "88.88"),
    ("Llama-3-8B", "5 of 32 blocks", "LinearPatch", "94.15, healed 95.16"),
)


def check(options: argparse.Namespace) -> None:
    """Let the whole decoder answer one question of each task: what is missing is found before the hours of the rest.

    Raises:
        SystemExit: where tasks or their data cannot be had.
    """
    try:
        _answered(options, [options.model], limit=1)
    except LinscoreError as error:
        raise SystemExit(str(error)) from error


def answer(options: argparse.Namespace, folders: Mapping[str, Path], path: Path, facts: Mapping[str, Any]) -> None:
    """Let the whole decoder and what was saved of it answer, and write all figures to `path` and a table beside it."""
    found = _answered(options, [options.model, *map(str, folders.values())], options.limit)
    by_name = dict(zip(("uncut", *folders), found, strict=True))
    about = {"model": Path(options.model).name, "suite": options.suite or options.tasks, "questions": options.limit}
    written = {"about": about, "facts": dict(facts), "rows": {name: asdict(one) for name, one in by_name.items()}}
    path.write_text(json.dumps(written, indent=1, default=str) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(about, by_name, facts), encoding="utf-8")
    print(path, path.with_suffix(".md"), sep="\n")


def _answered(options: argparse.Namespace, models: list[str], limit: int | None) -> list[Evaluation]:
    asked = EvaluateOptions(suite=options.suite, tasks=options.tasks, task_data=tuple(options.task_data), limit=limit)
    return run_evaluate(models, evaluating=asked, place=PlaceOptions(device=options.device, dtype=options.dtype))


def table(about: Mapping[str, Any], found: Mapping[str, Evaluation], facts: Mapping[str, Any]) -> str:
    """What each decoder answers, and the figures of others."""
    ran = {"about": about, "facts": facts, "rows": [facts]}
    tasks = list(next(iter(found.values())).tasks)
    lines = [*head(f"What {about['model']} answers", ran), ""]
    lines += [
        "| | parameters | average | retained % | " + " | ".join(tasks) + " |",
        "|---|" + "---|" * (3 + len(tasks)),
    ]
    for name, one in found.items():
        means = [f"{one.average:.4f}" if one.average is not None else "–", _percent(one.retained)]
        cells = [f"{one.parameters:,}", *means, *(f"{one.tasks[task].value:.4f}" for task in tasks)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| model | cut | whose | retained % | ours |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} | {_ours(row[0], about, found)} |" for row in PUBLISHED]
    return "\n".join([*lines, ""])


def _ours(model: str, about: Mapping[str, Any], found: Mapping[str, Evaluation]) -> str:
    """The averages retained, where this is that model."""
    if model.lower() not in about["model"].lower():
        return "not measured"
    return ", ".join(f"{name}: {_percent(one.retained)}" for name, one in found.items() if one.retained is not None)


def _percent(retained: float | None) -> str:
    return "–" if retained is None else f"{retained:.2f}"
