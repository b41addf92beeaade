"""The search of `linscore compress`: what it chooses from, under which budget, and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from linscore.compression.budget import Budget, Task, task
from linscore.compression.choices import DROP, Choice, Form, forms_of
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
from linscore.jobs.compress_texts import FIT, Texts
from linscore.models.load import Pretrained
from linscore.progress import ShareProgress
from linscore.spans import Unit


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

    def begin_dropping(self, goal: Task) -> Search:
        """The same of whole blocks, which are dropped."""
        return Search({unit: [DROP] for unit in self.rows if not unit.part}, goal.saves, self.cost, self.expected())


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
        dropped: whole blocks that are dropped and save as much, where they were looked for: what stands before them
            can take over much of what they did, so that they may cost less once they are healed.
    """

    table: Table
    steps: list[Step]
    curve: list[Step]
    whole: float
    stopped: bool
    latency: Latency | None
    dropped: Step | None = None

    @property
    def step(self) -> Step:
        """The choice."""
        return self.steps[-1]

    def ending_with(self, step: Step) -> Found:
        """The same, where another choice took the last one's place."""
        return self if step == self.step else replace(self, steps=[*self.steps, step])

    @property
    def share(self) -> float:
        """Of what the blocks hold, what is saved."""
        return self.step.saved / self.whole


def search(
    loaded: Pretrained,
    table: Table,
    budget: Budget,
    *,
    latency: Latency | None,
    whole_curve: bool,
    heals: bool,
    say: Callable[[str], None],
) -> Found:
    """Choose units and forms under a budget.

    Args:
        loaded: the whole decoder.
        table: what is chosen from.
        budget: what is to be reached.
        latency: of its units, where the time is bounded.
        whole_curve: search on to the end, too.
        heals: what is found is healed: look for whole blocks to drop, too.
        say: takes a line for each step.

    Raises:
        LinscoreError: where more is to go than can.
    """
    decoder = loaded.decoder
    goal = task(budget, decoder, table.rows, table.whole, latency)
    searching, curve, stopped, dropped = table.begin(goal, decoder.width), [], False, None
    if searching.most < goal.enough < math.inf:
        raise _too_much(budget, searching.most / goal.whole)
    try:
        with ShareProgress("searching") as progress:
            for step in searching.run(goal.enough, goal.most_loss):
                say(_line(step, goal, table.trials))
                progress.reach(goal.reached(step.saved, step.loss))
        if heals and table.trials is not None and goal.enough < math.inf:
            say("whole blocks alone")
            dropped = _dropped(table.begin_dropping(goal), goal.enough)
        if whole_curve:
            curve = _curve(table.begin(goal, decoder.width), say)
    except KeyboardInterrupt:
        if not searching.last.choice:
            raise
        stopped = True
    if not stopped and searching.last.saved < goal.enough < math.inf:
        raise _too_much(budget, searching.last.saved / goal.whole)
    return Found(table, searching.steps, curve, goal.whole, stopped, latency, dropped)


def _dropped(searching: Search, enough: float) -> Step | None:
    """The blocks that are dropped until enough is saved; None where that is more than can go."""
    *_, last = [searching.last, *searching.advance(enough)]
    return last if last.saved >= enough else None


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
    blocks = (
        s for s in steps if s.saved >= goal.enough and all(u.part == "" and f == DROP for u, f in s.choice.items())
    )
    dropped = min(blocks, key=lambda s: s.loss, default=None)
    return Found(table, [Step({}, 0.0, table.whole), best], [], goal.whole, False, latency, dropped)


def _is_dropped(unit: Unit, form: Form) -> bool:
    return form == DROP and not unit.part


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
