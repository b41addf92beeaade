"""What others evaluate cut models on: their tasks, shots and averages, so that figures can stand beside theirs.

Names are lm-eval's. A suite has no text: perplexities, which some of the papers report too, are of `text` or `dataset`,
by our windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from linscore.evaluation.result import Evaluation
from linscore.evaluation.tasks import TaskResult, by_metric

__all__ = ["SUITES", "Suite", "SuiteTask", "in_suite", "with_retained"]


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite.

    Attributes:
        name: as lm-eval knows it.
        shots: solved examples in front of each question.
        metric: what of lm-eval's figures counts, the more the better.
    """

    name: str
    shots: int = 0
    metric: str = "acc"


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together, and those whose mean is the headline."""

    tasks: tuple[SuiteTask, ...]
    headline: tuple[str, ...]

    @property
    def shots(self) -> dict[str, int]:
        """The shots of each task, by its name."""
        return {task.name: task.shots for task in self.tasks}


def _suite(*tasks: str | SuiteTask, headline: Sequence[str] = ()) -> Suite:
    """Plain names are answered without an example, by accuracy; the headline is the mean of all where none is given."""
    whole = tuple(SuiteTask(task) if isinstance(task, str) else task for task in tasks)
    return Suite(whole, tuple(headline) or tuple(task.name for task in whole))


_MMLU = SuiteTask("mmlu", shots=5)
_ARC = ("arc_easy", "arc_challenge")
SUITES: Mapping[str, Suite] = {
    # ReplaceMe (arXiv 2505.02819)
    "replaceme": _suite(
        *(SuiteTask("winogrande", shots=5), "boolq", "race", "openbookqa", "piqa", "sciq", "lambada_openai"),
        *("hellaswag", "mmlu"),
        headline=("boolq", "hellaswag", "piqa", "mmlu"),
    ),
    # LinearPatch (arXiv 2505.24680)
    "linearpatch": _suite(*_ARC, "boolq", "hellaswag", "piqa", "winogrande", "wsc273", "race", "copa"),
    # NBL (arXiv 2505.21077)
    "nbl": _suite("boolq", "rte", "openbookqa", "piqa", "winogrande", *_ARC, "hellaswag", _MMLU),
    # Your Transformer is Secretly Linear (arXiv 2405.12250): what lm-eval has of SuperGLUE
    "paper": _suite(
        *("boolq", "cb", "copa", "multirc", SuiteTask("record", metric="f1"), "rte", "wic", "wsc"),
    ),
    # without HumanEval+, which runs code that the model writes
    "modern": _suite(SuiteTask("gsm8k", shots=5, metric="exact_match,strict-match"), _MMLU),
}


def in_suite(suite: Suite, results: Mapping[str, TaskResult]) -> dict[str, TaskResult]:
    """The suite's tasks among results, by its metrics; what groups consist of is left out."""
    return {task.name: by_metric(results[task.name], task.metric) for task in suite.tasks}


def with_retained(suite: Suite, evaluations: Sequence[Evaluation], origins: Sequence[str | None]) -> list[Evaluation]:
    """Evaluations with the mean of the suite's headline, and how much of the uncut model's each has.

    Args:
        suite: what they were evaluated on.
        evaluations: of several models.
        origins: for each, the name of the model that it was cut from, where a record says that.

    The uncut model is the origin where that was evaluated too, else the first model, unless that is cut itself.
    """
    means = [sum(one.tasks[name].value for name in suite.headline) / len(suite.headline) for one in evaluations]
    by_name = {one.model: at for at, one in enumerate(evaluations)}
    uncut = [by_name.get(origin or "", 0) for origin in origins]
    return [
        replace(one, average=mean, retained=100 * mean / means[at] if origins[at] is None and means[at] else None)
        for one, mean, at in zip(evaluations, means, uncut, strict=True)
    ]
