"""Which units go, and in which form: what adds least loss for what it saves comes first.

A queue is ordered by the loss that each move is thought to add for each unit of the budget; its first is measured until
one that is measured stays first (a lazy greedy search: Minoux, "Accelerated greedy algorithms for maximizing submodular
set functions", 1978). Then pairs of moves, one back and one ahead, are exchanged while that gains.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from linscore.compression.choices import Choice, Form, replaced, with_form
from linscore.compression.expected import Expected
from linscore.compression.knapsack import likeliest
from linscore.spans import Unit

PATIENCE = 8  # exchanges in a row that are tried and do not gain
NOISE = 1e-6  # a change of the loss, as a share of it, that is no gain
GRAIN = 1e-3  # of all that can be saved: a smaller step is not worth a trial


@dataclass(frozen=True)
class Move:
    """One unit takes another form."""

    unit: Unit
    form: Form
    becomes: Choice
    saves: float


@dataclass(frozen=True)
class Step:
    """A choice that was reached."""

    choice: Choice
    saved: float
    loss: float


class Search:
    """Searches units and their forms.

    Args:
        forms: of each unit, the one that holds least first.
        saves: what a form of a unit saves, in the unit of the budget.
        measure: the loss with a choice, given one that it was reached from.
        expected: what forms are thought to add before they are measured.

    Attributes:
        steps: what was taken so far, the whole decoder first.
    """

    def __init__(
        self,
        forms: dict[Unit, list[Form]],
        saves: Callable[[Unit, Form], float],
        measure: Callable[[Choice, Choice], float],
        expected: Expected,
    ) -> None:
        self._forms, self._saves, self._measure, self._expected = forms, saves, measure, expected
        self._whole = {unit: own for unit, own in forms.items() if not unit.part}
        self._grain = GRAIN * self.most
        self.steps = [Step({}, 0.0, measure({}, {}))]

    @property
    def most(self) -> float:
        """What is saved where every block is dropped but one, which is a map that holds little, where it may be one."""
        blocks = [[*(self._saves(unit, form) for form in forms[:2]), 0.0][:2] for unit, forms in self._whole.items()]
        return sum(dropped for dropped, _ in blocks) - min(dropped - least for dropped, least in blocks)

    def _leaves_one(self, choice: Choice) -> bool:
        """Whether a block is left that is not dropped."""
        return any(choice.get(unit) != forms[0] for unit, forms in self._whole.items())

    @property
    def last(self) -> Step:
        """The last step."""
        return self.steps[-1]

    def saved(self, choice: Choice) -> float:
        """What a choice saves in all."""
        return sum(self._saves(unit, form) for unit, form in choice.items())

    def run(self, enough: float, most_loss: float) -> Iterator[Step]:
        """Until `enough` is saved, by moves, then what is thought best, then exchanges; or within `most_loss`."""
        yield from self.advance(enough, most_loss)
        if enough <= self.last.saved:
            yield from self.redraw(enough)
            yield from self.exchange(enough)

    def advance(self, enough: float = math.inf, most_loss: float = math.inf) -> Iterator[Step]:
        """Take moves until `enough` is saved, or none is left that keeps the loss at `most_loss`."""
        while self.last.saved < enough:
            found = self._best(enough - self.last.saved, most_loss)
            if found is None:
                return
            move, loss = found
            yield self._take(move.becomes, loss)

    def redraw(self, enough: float) -> Iterator[Step]:
        """Take the choice that is thought to add least in all, where it does; what is learned on the way may change it.

        Greedy moves may have led to where no exchange of two leads on.
        """
        saved = {(unit, form): self._saves(unit, form) for unit, forms in self._forms.items() for form in forms}
        tried: set[frozenset[tuple[Unit, Form]]] = set()
        while (found := likeliest(self._forms, saved, self._expected.at_best, enough)) is not None:
            one = frozenset(found.items())
            if one in tried or found == self.last.choice or not self._leaves_one(found):
                return
            unknown = [(unit, form) for unit, form in found.items() if not self._expected.knows(unit, form)]
            for unit, form in unknown:
                alone = with_form({}, unit, form)
                self._expected.learn(unit, form, self._measure({}, alone) - self.steps[0].loss)
            if unknown:
                continue
            tried.add(one)
            loss = self._measure({}, found)
            if loss < self.last.loss * (1 - NOISE):
                yield self._take(found, loss)

    def exchange(self, enough: float) -> Iterator[Step]:
        """Exchange moves while the loss falls and `enough` stays saved."""
        tried: set[frozenset[tuple[Unit, Form]]] = set()
        while (found := self._exchanged(enough, tried)) is not None:
            yield self._take(*found)

    def _take(self, choice: Choice, loss: float) -> Step:
        self.steps.append(Step(choice, self.saved(choice), loss))
        return self.last

    def _best(self, needed: float, most_loss: float) -> tuple[Move, float] | None:
        """The move that adds least for what it saves of what is needed."""
        here = self.last
        moves = [move for move in self._moves(here.choice) if move.saves > min(self._grain, needed / 2)]
        measured: dict[int, float] = {}

        def price(n: int) -> float:
            added = measured[n] - here.loss if n in measured else self._added(here.choice, moves[n])
            return added / min(moves[n].saves, needed)

        queue = [(price(n), n) for n in range(len(moves))]
        heapq.heapify(queue)
        while queue:
            stale, n = heapq.heappop(queue)
            if price(n) > stale:  # something was learned of this unit meanwhile
                heapq.heappush(queue, (price(n), n))
            elif n in measured:
                return moves[n], measured[n]
            else:
                found = self._measured(moves[n])
                if found <= most_loss:
                    measured[n] = found
                    heapq.heappush(queue, (price(n), n))
        return None

    def _exchanged(self, enough: float, tried: set[frozenset[tuple[Unit, Form]]]) -> tuple[Choice, float] | None:
        """One move back and at most one ahead that gain together, the likeliest first."""
        here, failures = self.last, 0
        for _, _, pair in sorted((added, n, pair) for n, (added, pair) in enumerate(self._pairs(enough))):
            one = frozenset(pair.items())
            if one in tried:
                continue
            if failures == PATIENCE:
                return None
            tried.add(one)
            loss = self._measure(here.choice, pair)
            if loss < here.loss * (1 - NOISE):
                return pair, loss
            failures += 1
        return None

    def _pairs(self, enough: float) -> Iterator[tuple[float, Choice]]:
        """What one move back and at most one ahead lead to with enough saved, and what they are thought to add."""
        here = self.last.choice
        for back in self._back(here):
            relief = self._expects(back) - self._expects(here)
            needed = enough - self.saved(back)
            if needed <= 0:
                yield relief, back
            for move in self._moves(back) if needed > 0 else ():
                if move.saves >= needed and move.becomes != here:
                    yield relief + self._added(back, move), move.becomes

    def _back(self, choice: Choice) -> Iterator[Choice]:
        """A choice with one of its forms given up, or become one that holds more."""
        for unit, form in choice.items():
            less = {one: had for one, had in choice.items() if one != unit}
            yield less
            for other in self._forms[unit][self._forms[unit].index(form) + 1 :]:
                yield less | {unit: other}

    def _moves(self, choice: Choice) -> Iterator[Move]:
        """All moves from a choice that save more than it does."""
        before = self.saved(choice)
        for unit, forms in self._forms.items():
            if unit.part and Unit(unit.span) in choice:
                continue
            for form in forms:
                becomes = with_form(choice, unit, form)
                saves = self.saved(becomes) - before
                if saves > 0 and self._leaves_one(becomes):
                    yield Move(unit, form, becomes, saves)

    def _added(self, choice: Choice, move: Move) -> float:
        """What a move is thought to add to the loss of the choice that it starts from."""
        return self._expected(move.unit, move.form) - self._expects(replaced(choice, move.unit))

    def _measured(self, move: Move) -> float:
        """The loss that a move leads to; what its form adds is known from now on."""
        loss = self._measure(self.last.choice, move.becomes)
        gone = self._expects(replaced(self.last.choice, move.unit))
        self._expected.learn(move.unit, move.form, loss - self.last.loss + gone)
        return loss

    def _expects(self, choice: Choice) -> float:
        return sum(self._expected(*one) for one in choice.items())
