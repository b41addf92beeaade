"""What a judge says of texts that models have written, as data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from linscore.evaluation.judges import Judge
from linscore.evaluation.perplexity import perplexity
from linscore.evaluation.stories import Story

ITSELF = "(the text itself)"  # stands where a model's name does, for how the texts go on


@dataclass(frozen=True)
class Grade:
    """A figure over texts.

    Attributes:
        mean: over the texts.
        spread: their standard deviation, None of one text.
        stderr: the standard error of the mean, None of one text.
    """

    mean: float
    spread: float | None
    stderr: float | None


@dataclass(frozen=True)
class Written:
    """One text: its beginning, what stands behind it, and the judge's grades, None where there are none."""

    begin: str
    written: str
    grades: Mapping[str, float] | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a judge says of one model.

    Attributes:
        model: Hub name, folder, "embedded", or `ITSELF`.
        grades: by their names, over the texts that have any: of a judge that is asked, from 0 to 10, and "mean", that
            of each text's; of a reference decoder "loss", nats a token, and the lower the likelier.
        perplexity: exp of the mean loss, of a reference decoder.
        judged: how many texts have grades.
        texts: all of them.
    """

    model: str
    grades: dict[str, Grade]
    perplexity: float | None
    judged: int
    texts: list[Written]


def judged(
    model: str, begun: Sequence[Story], written: Sequence[str], judge: Judge, done: Callable[[], None] = lambda: None
) -> Judged:
    """Judge what stands behind each beginning; `done` is called after each."""
    texts = []
    for story, text in zip(begun, written, strict=True):
        texts.append(Written(story.begin, text, judge(story.begin, text)))
        done()
    found = [one.grades for one in texts if one.grades is not None]
    columns = {name: [one[name] for one in found] for name in (found[0] if found else ())}
    if len(columns) > 1:
        columns["mean"] = [statistics.fmean(one.values()) for one in found]
    grades = {name: _grade(values) for name, values in columns.items()}
    loss = perplexity(grades["loss"].mean) if "loss" in grades else None
    return Judged(model=model, grades=grades, perplexity=loss, judged=len(found), texts=texts)


def _grade(values: Sequence[float]) -> Grade:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Grade(statistics.fmean(values), spread, None if spread is None else spread / len(values) ** 0.5)
