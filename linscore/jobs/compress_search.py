"""The search of `linscore compress`: a text dealt into what fits, what chooses and what reports, and what was found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from linscore.compression.budget import Budget, Task, task
from linscore.compression.choices import Choice, forms_of
from linscore.compression.expected import Expected
from linscore.compression.figures import Figures
from linscore.compression.forms import Row
from linscore.compression.latency import Latency
from linscore.compression.measured import Key, Measured
from linscore.compression.rows import expected_of, unit_rows
from linscore.compression.search import Search, Step
from linscore.compression.trials import Replaced, Trials
from linscore.decoder.find import Decoder
from linscore.decoder.states import SubBlocks
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.errors import LinscoreError
from linscore.evaluation.windows import Window, batch_of
from linscore.models.load import Pretrained
from linscore.progress import ShareProgress
from linscore.spans import Unit
from linscore.text.packing import texts_within
from linscore.text.source import Text
from linscore.text.tokens import special_tokens

FIT, CHOOSE, REPORT = (0, 1), 2, 3  # folds of the text

Batches = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Texts:
    """A text in three: maps are fitted on the first, in two folds, cuts measured on the second, the third reports."""

    fit: Batches
    choose: Batches
    report: Batches

    @property
    def fitted(self) -> int:
        """Tokens that maps are fitted on."""
        return sum(batch["input_ids"].numel() for batch in self.fit)


@dataclass(frozen=True)
class Table:
    """What a search chooses from, and what says what a choice costs.

    Attributes:
        rows: all units.
        sub_blocks: None where only whole blocks can go.
        cost: of a choice, given one that it was reached from: nats per token, or a figure.
        whole: what the whole decoder costs; 0 of a figure.
        expected: what forms are thought to add, anew.
        trials: what measures the cost; None where nothing is measured.
        origin: model, text and tokens of moments that were there; None: they are of the text that is given.
    """

    rows: Mapping[Unit, Row]
    sub_blocks: SubBlocks | None
    cost: Callable[[Choice, Choice], float]
    whole: float
    expected: Callable[[], Expected]
    trials: Trials | None
    origin: Mapping[str, Any] | None = None

    @staticmethod
    def measured(
        loaded: Pretrained,
        texts: Texts,
        known: Mapping[Key, float],
        learned: Callable[[Choice, float], None],
        say: Callable[[str], None],
    ) -> Table:
        """Collect moments, and run the whole decoder once on what chooses.

        Args:
            loaded: the whole decoder.
            texts: its text.
            known: losses that were measured before.
            learned: called with each that is measured.
            say: takes a line for what cannot be.
        """
        decoder = loaded.decoder
        sub_blocks = split(decoder, say)
        rows = unit_rows(decoder, texts.fit, sub_blocks, len(FIT), say)
        trials = Trials(Replaced(decoder, sub_blocks), texts.choose)
        cost, whole = Measured(trials, rows, known, learned), trials.loss
        return Table(rows, sub_blocks, cost, whole, lambda: expected_of(rows), trials)

    @staticmethod
    def by_figure(
        rows: Mapping[Unit, Row], sub_blocks: SubBlocks | None, by: str, origin: Mapping[str, Any] | None = None
    ) -> Table:
        """Of units whose moments are there; nothing is run.

        Raises:
            LinscoreError: where a unit lacks the figure.
        """
        figures = Figures(rows, by)
        costs, expected = (lambda _, choice: figures.choice(choice)), (lambda: Expected(figures.form, in_nats=True))
        return Table(rows, sub_blocks, costs, 0.0, expected, None, origin)

    def begin(self, goal: Task, width: int) -> Search:
        """A search from the whole decoder on."""
        return Search(dict.fromkeys(self.rows, forms_of(width)), goal.saves, self.cost, self.expected())


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        table: what it chose from.
        steps: what was taken; the last is the choice.
        curve: the same to the end, where that was asked for.
        whole: of what is saved, all that there is.
        stopped: by Ctrl-C, before the budget was met.
        latency: of units, where the time is bounded.
    """

    table: Table
    steps: list[Step]
    curve: list[Step]
    whole: float
    stopped: bool
    latency: Latency | None

    @property
    def step(self) -> Step:
        """The choice."""
        return self.steps[-1]

    @property
    def share(self) -> float:
        """Of what the blocks hold, what is saved."""
        return self.step.saved / self.whole


def read_texts(loaded: Pretrained, read: Text, most: int) -> Texts:
    """The text in folds, `most` tokens at most to choose and to report on.

    Raises:
        LinscoreError: where it does not fill all of them.
    """
    folds: dict[int, Batches] = {}
    for batch in read.batches(loaded.tokenizer, loaded.context, loaded.model.device, folds=4):
        folds.setdefault(int(batch["folds"][0]), []).append(batch)
    fit = [batch for fold in FIT for batch in folds[fold]]
    before, _ = special_tokens(loaded.tokenizer)
    return Texts(fit, *(_windows(folds[fold], before, most) for fold in (CHOOSE, REPORT)))


def _windows(batches: Batches, before: list[int], most: int) -> Batches:
    """The first texts that make up no more than so many tokens, one at least, as `window_batches` has them.

    They begin as the model is given texts: a cut that lives off what stands first would look cheap without it.
    """
    rows = [row for batch in batches for row in batch["input_ids"].tolist()]
    texts = [text for row in rows for text in texts_within(row, before)]
    ends = itertools.accumulate(map(len, texts))
    count = max(1, sum(end <= most for end in ends))
    some, device = max(1, len(batches[0]["input_ids"])), batches[0]["input_ids"].device
    windows = [Window(text, len(text) - 1) for text in sorted(texts[:count], key=len)]
    return [
        {name: part.to(device) for name, part in batch_of(windows[start : start + some]).items()}
        for start in range(0, count, some)
    ]


def search(
    loaded: Pretrained,
    table: Table,
    budget: Budget,
    *,
    latency: Latency | None,
    whole_curve: bool,
    say: Callable[[str], None],
) -> Found:
    """Choose units and forms under a budget.

    Args:
        loaded: the whole decoder.
        table: what is chosen from.
        budget: what is to be reached.
        latency: of its units, where the time is bounded.
        whole_curve: search on to the end, too.
        say: takes a line for each step.

    Raises:
        LinscoreError: where more is to go than can.
    """
    decoder = loaded.decoder
    goal = task(budget, decoder, table.rows, table.whole, latency)
    searching, curve, stopped = table.begin(goal, decoder.width), [], False
    if searching.most < goal.enough < math.inf:
        raise _too_much(budget, searching.most / goal.whole)
    try:
        with ShareProgress("searching") as progress:
            for step in searching.run(goal.enough, goal.most_loss):
                say(_line(step, goal, table.trials))
                progress.reach(goal.reached(step.saved, step.loss))
        if whole_curve:
            curve = _curve(table.begin(goal, decoder.width), say)
    except KeyboardInterrupt:
        if not searching.last.choice:
            raise
        stopped = True
    if not stopped and searching.last.saved < goal.enough < math.inf:
        raise _too_much(budget, searching.last.saved / goal.whole)
    return Found(table, searching.steps, curve, goal.whole, stopped, latency)


def from_measured(
    loaded: Pretrained, table: Table, budget: Budget, known: Mapping[Key, float], latency: Latency | None = None
) -> Found | None:
    """The best of the choices that were measured before, under a budget; None where none meets it.

    Args:
        loaded: the whole decoder.
        table: what is chosen from.
        budget: what is to be reached.
        known: losses by choice.
        latency: of units, where the time is bounded.
    """
    goal = task(budget, loaded.decoder, table.rows, table.whole, latency)
    steps = [Step(dict(one), sum(goal.saves(*pair) for pair in one), loss) for one, loss in known.items() if one]
    if goal.enough < math.inf:
        best = min((s for s in steps if s.saved >= goal.enough), key=lambda s: s.loss, default=None)
    else:
        best = max((s for s in steps if s.loss <= goal.most_loss), key=lambda s: s.saved, default=None)
    if best is None:
        return None
    return Found(table, [Step({}, 0.0, table.whole), best], [], goal.whole, stopped=False, latency=latency)


def _curve(searching: Search, say: Callable[[str], None]) -> list[Step]:
    """A search that goes on to the end."""
    say("the whole curve")
    steps = [searching.last]
    with ShareProgress("the whole curve") as progress:
        for step in searching.advance():
            steps.append(step)
            progress.reach(step.saved / searching.most)
    return steps


def _line(step: Step, goal: Task, trials: Trials | None) -> str:
    saved = f"{step.saved / goal.whole:6.1%} saved"
    return saved if trials is None else f"{saved}, loss {step.loss:.4f}, {trials.trials} trials"


def _too_much(budget: Budget, most: float) -> LinscoreError:
    what = "what the blocks hold" if budget.workload is None else f"the time of {budget.workload}"
    return LinscoreError(f"`{budget.kind}` asks for more than can go, {most:.1%} of {what}: give more")


def split(decoder: Decoder, say: Callable[[str], None]) -> SubBlocks | None:
    """Attention and MLP of a decoder's blocks; a line where they cannot be told apart."""
    try:
        return find_sub_blocks(decoder)
    except LinscoreError as error:
        say(f"only whole blocks can go: {error}")
        return None
