"""The loss that a form of a unit is thought to add, before and after it was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from linscore.compression.choices import Form
from linscore.spans import Unit

LEAST = 1e-9  # of what is missed: a form that misses nothing
HOPE = 0.7  # of what is thought: on a Llama of five blocks most forms add within a third of it
ENOUGH = 3  # units, of which the median says how far gradients are off


class Expected:
    """What each form of each unit is thought to add to the loss.

    Once one form of a unit was measured, its others are thought to add in proportion to what was thought before. Of a
    unit that was never measured that is what gradients say, times the median of how far they were off for others.
    Without gradients nothing is known: it is taken to add nothing, so that its turn comes.

    Args:
        before: what is thought of a form before: nats per token, or the share of what the unit adds that it misses.
        in_nats: which of both.
    """

    def __init__(self, before: Callable[[Unit, Form], float], *, in_nats: bool = False) -> None:
        self._before, self._in_nats = before, in_nats
        self._known: dict[Unit, dict[Form, float]] = {}
        self._off: list[float] = []  # of the form of each unit that was measured first

    def learn(self, unit: Unit, form: Form, added: float) -> None:
        """A form of a unit was measured to add so much."""
        if unit not in self._known and added > 0:
            self._off.append(added / max(self._before(unit, form), LEAST))
        self._known.setdefault(unit, {})[form] = added

    def knows(self, unit: Unit, form: Form) -> bool:
        """Whether it was measured."""
        return form in self._known.get(unit, {})

    def __call__(self, unit: Unit, form: Form) -> float:
        """Nats per token."""
        known = self._known.get(unit, {})
        if form in known:
            return known[form]
        if not known and not self._in_nats:
            return 0.0
        thought = max(self._before(unit, form), LEAST)
        if not known:
            return thought * (statistics.median(self._off) if len(self._off) >= ENOUGH else 1.0)
        others = {one: max(self._before(unit, one), LEAST) for one in known}
        nearest = min(known, key=lambda one: abs(math.log(others[one] / thought)))
        return max(0.0, known[nearest]) * thought / others[nearest]

    def at_best(self, unit: Unit, form: Form) -> float:
        """What a form adds where it was measured, and otherwise what it may add if it does well."""
        return self(unit, form) * (1.0 if self.knows(unit, form) else HOPE)
