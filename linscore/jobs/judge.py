"""The job of `linscore judge`: models write texts on, and a judge says how well."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict

from linscore.errors import LinscoreError, at_least
from linscore.evaluation.endpoint import KEY, Endpoint
from linscore.evaluation.judged import ITSELF, Judged, judged
from linscore.evaluation.judges import Judge, grading, likelihood
from linscore.evaluation.stories import Story, go_on, stories
from linscore.files.json_file import json_text
from linscore.machine.versions import versions
from linscore.models.load import load_pretrained
from linscore.models.release import release
from linscore.options.judge import JUDGE_SAMPLING, JudgeOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.options.training import TrainingOptions
from linscore.progress import CountProgress
from linscore.text.source import Text


def run_judge(
    models: Sequence[str],
    *,
    text: TextOptions | None = None,
    judging: JudgeOptions | None = None,
    sampling: TrainingOptions = JUDGE_SAMPLING,
    place: PlaceOptions | None = None,
) -> list[Judged]:
    """Let models write on behind beginnings of texts, and have it judged; how the texts themselves go on comes first.

    Raises:
        LinscoreError: for any input that cannot be used, and where the judge gives no grades.
    """
    source, asked, place = Text(text or TextOptions()).source, judging or JudgeOptions(), place or PlaceOptions()
    _check(asked)
    at_least("seed", sampling.seed, 0)
    source.check()
    endpoint = (
        None if asked.endpoint is None else Endpoint(asked.endpoint, str(asked.judge), os.environ.get(KEY) or None)
    )
    begun = stories(source.documents(), asked.stories, asked.begin, asked.new_tokens)
    written = {ITSELF: [one.rest for one in begun]}
    found = []
    if endpoint is not None:  # before any model takes its time
        found.append(_judged(ITSELF, begun, written.pop(ITSELF), grading(endpoint.ask)))
    written |= {model: _written(model, begun, asked, sampling.seed or 0, place) for model in models}
    judge = _reference(asked.reference, place) if endpoint is None else grading(endpoint.ask)
    return found + [_judged(name, begun, texts, judge) for name, texts in written.items()]


def judged_json(found: Sequence[Judged], judging: JudgeOptions, sampling: TrainingOptions) -> str:
    """All grades and texts, what was asked for, and the versions they were made with."""
    return json_text(
        {
            "asked": asdict(judging) | {"seed": sampling.seed},
            "judged": [asdict(one) for one in found],
            "versions": versions(),
        }
    )


def _check(asked: JudgeOptions) -> None:
    for name in ("stories", "begin", "new_tokens"):
        at_least(name, getattr(asked, name), 1)
    if not 0 <= asked.temperature < float("inf"):
        raise LinscoreError(f"`temperature` is {asked.temperature}: give 0 or more")
    if (asked.endpoint is None) == (asked.reference is None):
        raise LinscoreError("who judges is not said: give `endpoint` and `judge`, or `reference`")
    if (asked.endpoint is None) != (asked.judge is None):
        raise LinscoreError("`endpoint` and `judge` belong together: give an address, and a model's name there")


def _written(model: str, begun: Sequence[Story], asked: JudgeOptions, seed: int, place: PlaceOptions) -> list[str]:
    """What one model writes, loaded and let go again."""
    loaded = load_pretrained(model, **asdict(place))
    with CountProgress("writing", len(begun)) as progress:
        texts = go_on(
            loaded.model,
            loaded.tokenizer,
            [one.begin for one in begun],
            new_tokens=asked.new_tokens,
            temperature=asked.temperature,
            seed=seed,
            context=loaded.context,
            done=progress.advance,
        )
    del loaded
    release()
    return texts


def _reference(name: str | None, place: PlaceOptions) -> Judge:
    loaded = load_pretrained(str(name), **asdict(place))
    return likelihood(loaded.model, loaded.tokenizer, loaded.context)


def _judged(name: str, begun: Sequence[Story], texts: Sequence[str], judge: Judge) -> Judged:
    with CountProgress("judging", len(begun)) as progress:
        found = judged(name, begun, texts, judge, progress.advance)
    if name == ITSELF and found.judged == 0:
        raise LinscoreError(
            "the judge grades none of the texts as it is asked to: name another `judge`, or `reference`"
        )
    return found
