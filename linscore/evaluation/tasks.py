"""Benchmark tasks of lm-eval on a model in memory, with the tasks' data from the Hub or from local files.

A task's configuration is the one that ships with lm-eval. A local file replaces its data set and nothing else.
"""

from __future__ import annotations

import difflib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from linscore.errors import LinscoreError, reason
from linscore.evaluation.task_data import task_rows
from linscore.machine.extras import need
from linscore.models.quiet import quiet

__all__ = ["LoadedTasks", "TaskResult", "by_metric", "load_tasks", "run_tasks"]

LoadedTasks = Mapping[str, Any]  # what lm-eval's TaskManager.load gives: "tasks", "groups", "group_map"

_TASK_LINE = re.compile(rb"^task: *[\"']?([^\"'\s\[]+)[\"']? *$", re.MULTILINE)

FEWSHOT_SEED = 1234  # lm-eval's default
BOOTSTRAP = 1000  # resamples, for the standard errors that have no closed form


@dataclass(frozen=True)
class TaskResult:
    """The figures of one task.

    Attributes:
        metric: the main metric, which is the first that lm-eval gives: accuracy in tasks with choices. In a suite its.
        value: its value.
        stderr: its standard error, None where lm-eval knows none.
        samples: how many questions it was measured on.
        metrics: every metric and standard error, by lm-eval's names.
    """

    metric: str
    value: float
    stderr: float | None
    samples: int
    metrics: dict[str, float]


def load_tasks(
    tasks: Sequence[str],
    *,
    task_data: Mapping[str, str | Path] | None = None,
    include_path: str | Path | None = None,
    shots: Mapping[str, int] | None = None,
) -> LoadedTasks:
    """Tasks of lm-eval, groups and tags of them, with their data.

    Args:
        tasks: names as lm-eval knows them.
        task_data: for a task by its name, a local `.jsonl`, `.json` (a list of objects) or `.parquet` file that takes
            the place of the split it is evaluated on; such a task needs no network.
        include_path: a folder with more task configurations, which come before those of the same name. Functions that
            they name run as code.
        shots: solved examples in front of each question, by the name of task or group; else as lm-eval has it.

    Raises:
        LinscoreError: lm-eval is not installed, a name is not known, or data cannot be had or does not fit.
    """
    task_data = dict(task_data or {})
    stray = sorted(set(task_data) - set(tasks))
    if stray:
        raise LinscoreError(f"`task_data` names {', '.join(stray)}, not among `tasks`: name the tasks it belongs to")
    with _quiet():
        manager = _manager(tasks, include_path)
        found = {name: _load(manager, name, task_data.get(name)) for name in dict.fromkeys(tasks)}
        loaded = manager.load(list(chain.from_iterable(found.values())))
    for name, number in (shots or {}).items():
        for task in manager.load(found[name])["tasks"].values():  # of a group all that it consists of
            task.set_config("num_fewshot", number)
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
    return loaded


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: LoadedTasks,
    *,
    batch_size: int,
    limit: int | None = None,
) -> dict[str, TaskResult]:
    """Let a model answer tasks.

    Args:
        model: a causal language model; it is left in evaluation mode.
        tokenizer: the model's own; it is given a padding token if it has none.
        tasks: from `load_tasks`; they can be run again on another model.
        batch_size: answers that are scored together.
        limit: take only the first so many questions of each task.

    Raises:
        LinscoreError: lm-eval refuses a task, for example one that runs code that the model writes.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet():
        wrapped = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal", trust_remote_code=False
        )
        try:
            # Not simple_evaluate, which asks the Hub about the model, and the system about itself.
            found = evaluate(wrapped, tasks, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=False)
        except ValueError as error:
            raise LinscoreError(f"lm-eval cannot run these tasks ({reason(error)}): leave out the task") from error
    results = {name: _result(figures) for name, figures in found["results"].items()}
    return {name: result for name, result in results.items() if result is not None}


def _result(figures: Mapping[str, Any]) -> TaskResult | None:
    """None for a group without figures of its own."""
    metrics = {
        key.removesuffix(",none"): float(value)
        for key, value in figures.items()
        if "," in key and isinstance(value, int | float)
    }
    main = next(iter(metrics), None)
    if main is None:
        return None
    return by_metric(TaskResult(main, metrics[main], None, int(figures.get("sample_len", 0)), metrics), main)


def by_metric(result: TaskResult, metric: str) -> TaskResult:
    """The same result with another of its metrics as the main one."""
    name, comma, filtered = metric.partition(",")
    stderr = result.metrics.get(f"{name}_stderr{comma}{filtered}")
    return replace(result, metric=metric, value=result.metrics[metric], stderr=stderr)


def _manager(tasks: Sequence[str], include_path: str | Path | None) -> Any:
    """lm-eval's index of tasks; only of the folders that hold these if they can be told, as the whole takes long."""
    need("tasks", "`tasks`", "lm_eval", "accelerate")
    import lm_eval
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise LinscoreError(f"`include_path={include_path}` is no folder: give one with task configurations (.yaml)")
    roots = [Path(str(lm_eval.__file__)).with_name("tasks")] + ([] if include_path is None else [Path(include_path)])
    homes = [_homes(root) for root in roots]  # of the same name, the last one counts
    if all(any(name in home for home in homes) for name in tasks):
        folders = [sorted({path for name in tasks for path in home.get(name, ())}, reverse=True) for home in homes]
        return TaskManager(include_path=list(chain.from_iterable(folders)), include_defaults=False)
    manager = TaskManager(include_path=list(map(str, roots[1:])))
    for name in tasks:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, 3) or ["arc_easy", "boolq"]
            raise LinscoreError(f"no task {name!r} in lm-eval: did you mean {', '.join(near)}?")
    return manager


@cache
def _homes(root: Path) -> dict[str, set[str]]:
    """The folders that hold the configuration of each task."""
    homes: dict[str, set[str]] = {}
    for path in root.rglob("*.yaml"):
        for name in _TASK_LINE.findall(path.read_bytes()) if path.is_file() else ():  # a pipe would be waited for
            homes.setdefault(name.decode(), set()).add(str(path.parent))
    return homes


def _load(manager: Any, name: str, file: str | Path | None) -> list[Any]:
    """The group, or the tasks, that `name` stands for, with their data."""
    config = manager.task_index[name].cfg or {}
    if file is None:
        try:
            loaded = manager.load([name])
        except Exception as error:  # `datasets` and the Hub client raise two dozen unrelated classes
            raise LinscoreError(
                f"the data of task {name} cannot be loaded ({reason(error)}): check the network, or give "
                f"`task_data` with {name}=FILE"
            ) from error
        return list(loaded["groups"].values())[:1] or list(loaded["tasks"].values())
    changes = _local_data(task_rows(Path(file), config), config)
    try:
        # A group made up on the spot is how lm-eval lets settings of a task be replaced.
        return [manager.load([{"group": "local", "task": [{"task": name, **changes}]}])["tasks"][name]]
    except Exception as error:  # templates and functions of the task meet rows that they were not made for
        raise LinscoreError(f"{file} does not fit task {name} ({reason(error)}): give rows as the Hub has") from error


def _local_data(rows: list[dict[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under which a task has these rows for the split it is evaluated on, and no other."""
    from datasets import Dataset

    split = config.get("test_split") or config.get("validation_split")
    data = {split: Dataset.from_list(rows)}
    # lm-eval keeps a question out of its own examples only where both come from the test split.
    splits = {"training_split": None, "validation_split": None, "test_split": split, "fewshot_split": split}
    return {**splits, "custom_dataset": lambda **_: data, "dataset_kwargs": None}


@contextmanager
def _quiet() -> Iterator[None]:
    """Log, warnings and prints kept off the terminal; bars are shown where there is somebody to see them."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with ExitStack() as stack:
        stack.callback(logger.setLevel, level)
        stack.enter_context(quiet())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(io.StringIO()))
        yield
