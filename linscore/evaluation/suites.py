"""What others evaluate cut models on: their tasks, shots and averages, so that figures can stand beside theirs.

Names are lm-eval's. A suite has no text: perplexities, which some of the papers report too, are of `text` or `dataset`,
by our windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from linscore.errors import LinscoreError
from linscore.evaluation.result import Evaluation
from linscore.evaluation.tasks import TaskResult, by_metric

__all__ = ["SUITES", "Chosen", "Suite", "SuiteTask", "chosen", "with_retained"]


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite.

    Attributes:
        name: as lm-eval knows it.
        shots: solved examples in front of each question.
        metrics: which of lm-eval's figures count, the more the better; the first is the one that is shown.
    """

    name: str
    shots: int = 0
    metrics: tuple[str, ...] = ("acc",)


@dataclass(frozen=True)
class Suite:
    """Tasks that are reported together, and those whose mean is the headline: of each figure that counts."""

    tasks: tuple[SuiteTask, ...]
    headline: tuple[str, ...]

    def mean(self, results: Mapping[str, TaskResult]) -> float:
        """The headline of a model's results."""
        counted = [results[task.name].metrics[metric] for task in self._counted() for metric in task.metrics]
        return sum(counted) / len(counted)

    def _counted(self) -> Iterator[SuiteTask]:
        return (task for task in self.tasks if task.name in self.headline)


@dataclass(frozen=True)
class Chosen:
    """The tasks that are asked for: by their own names, and those of suites.

    Attributes:
        names: as lm-eval knows them, in the order in which they were asked for.
        of_suites: those of suites, by their names.
        suite: the one suite among what was asked for, None where it is none or several.
    """

    names: tuple[str, ...]
    of_suites: Mapping[str, SuiteTask] = field(default_factory=dict)
    suite: Suite | None = None

    @property
    def shots(self) -> dict[str, int]:
        """The shots of the suites' tasks, by their names."""
        return {name: task.shots for name, task in self.of_suites.items()}

    def results(self, found: Mapping[str, TaskResult], groups: Mapping[str, Sequence[str]]) -> dict[str, TaskResult]:
        """Results, those of suites by the suites' metrics; what groups of suites consist of is left out.

        Args:
            found: by lm-eval's names.
            groups: of lm-eval, the names of what each consists of.
        """
        parts = set(_parts(self.of_suites, groups)) - {*self.names}
        return {
            name: by_metric(one, self.of_suites[name].metrics[0]) if name in self.of_suites else one
            for name, one in found.items()
            if name not in parts
        }


def _parts(names: Iterable[str], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """All that groups consist of, at every depth."""
    for name in names:
        yield from groups.get(name, ())
        yield from _parts(groups.get(name, ()), groups)


def chosen(names: Sequence[str]) -> Chosen:
    """What a list of names stands for, names of suites among them.

    Raises:
        LinscoreError: two suites have a task with unlike shots or metrics, which lm-eval cannot run at once.
    """
    suites = [SUITES[name] for name in dict.fromkeys(names) if name in SUITES]
    of_suites: dict[str, SuiteTask] = {}
    for task in (task for suite in suites for task in suite.tasks):
        if of_suites.setdefault(task.name, task) != task:
            raise LinscoreError(f"`tasks` has suites that ask {task.name} in two ways: give them one after the other")
    whole = [[task.name for task in SUITES[name].tasks] if name in SUITES else [name] for name in names]
    return Chosen(tuple(dict.fromkeys(chain.from_iterable(whole))), of_suites, suites[0] if len(suites) == 1 else None)


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
    # Your Transformer is Secretly Linear (arXiv 2405.12250), table 2: ten figures of eight tasks
    "paper": _suite(
        *("boolq", SuiteTask("cb", metrics=("acc", "f1")), "copa", "multirc"),
        *(SuiteTask("record", metrics=("f1", "em")), "rte", "wic", "xstorycloze_en"),
    ),
    # What LLM-Pruner asked (arXiv 2305.11627), and papers on depth since: Shortened LLaMA has all seven, SLEB five
    "pruning": _suite("boolq", "piqa", "hellaswag", "winogrande", *_ARC, "openbookqa"),
    # without HumanEval+, which runs code that the model writes
    "modern": _suite(SuiteTask("gsm8k", shots=5, metrics=("exact_match,strict-match",)), _MMLU),
}


def with_retained(suite: Suite, evaluations: Sequence[Evaluation], origins: Sequence[str | None]) -> list[Evaluation]:
    """Evaluations with the mean of the suite's headline, and how much of the uncut model's each has.

    Args:
        suite: what they were evaluated on.
        evaluations: of several models.
        origins: for each, the name of the model that it was cut from, where a record says that.

    The uncut model is the origin where that was evaluated too, else the first model, unless that is cut itself.
    """
    means = [suite.mean(one.tasks) for one in evaluations]
    by_name = {one.model: at for at, one in enumerate(evaluations)}
    uncut = [by_name.get(origin or "", 0) for origin in origins]
    return [
        replace(one, average=mean, retained=100 * mean / means[at] if origins[at] is None and means[at] else None)
        for one, mean, at in zip(evaluations, means, uncut, strict=True)
    ]
