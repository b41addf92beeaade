"""The loss that a form of a unit is thought to add, before and after it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable

from linscore.compression.choices import Form
from linscore.spans import Unit

LEAST = 1e-9  # of what is missed: a form that misses nothing
HOPE = 0.7  # of what is thought: on a Llama of five blocks most forms add within a third of it


class Expected:
    """What each form of each unit is thought to add to the loss.

    Of a unit that was never measured nothing is known: it is taken to add nothing, so that its turn comes. Once one of
    its forms was measured, the others are thought to add in proportion to what they miss of what the unit adds.

    Args:
        missed: the share of what a unit adds to the stream that a form of it misses.
    """

    def __init__(self, missed: Callable[[Unit, Form], float]) -> None:
        self._missed = missed
        self._known: dict[Unit, dict[Form, float]] = {}

    def learn(self, unit: Unit, form: Form, added: float) -> None:
        """A form of a unit was measured to add so much."""
        self._known.setdefault(unit, {})[form] = added

    def knows(self, unit: Unit, form: Form) -> bool:
        """Whether it was measured."""
        return form in self._known.get(unit, {})

    def __call__(self, unit: Unit, form: Form) -> float:
        """Nats per token."""
        known = self._known.get(unit, {})
        if form in known or not known:
            return known.get(form, 0.0)
        missed = max(self._missed(unit, form), LEAST)
        shares = {one: max(self._missed(unit, one), LEAST) for one in known}
        nearest = min(known, key=lambda one: abs(math.log(shares[one] / missed)))
        return max(0.0, known[nearest]) * missed / shares[nearest]

    def at_best(self, unit: Unit, form: Form) -> float:
        """What a form adds where it was measured, and otherwise what it may add if it does well."""
        return self(unit, form) * (1.0 if self.knows(unit, form) else HOPE)
