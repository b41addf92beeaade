"""Losses of choices: each measured once, and remembered, so that a search that is begun again runs nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from linscore.compression.choices import Choice, Form
from linscore.compression.forms import Row
from linscore.compression.trials import StandIn, Trials
from linscore.spans import Unit

Key = frozenset[tuple[Unit, Form]]


class Measured:
    """The loss of a choice on the measuring text.

    Args:
        trials: measure cuts.
        rows: what stands for each unit.
        known: losses that were measured before, by choice.
        learned: called with each choice that is measured now, and its loss.
    """

    def __init__(
        self,
        trials: Trials,
        rows: Mapping[Unit, Row],
        known: Mapping[Key, float] | None = None,
        learned: Callable[[Choice, float], None] | None = None,
    ) -> None:
        self._trials, self._rows = trials, rows
        self._known = {key(()): trials.loss} | dict(known or {})
        self._learned = learned

    def __call__(self, reached: Choice, choice: Choice) -> float:
        """Nats per token with a choice; `reached` is one that differs little, whose states are worth keeping."""
        found = self._known.get(key(choice.items()))
        if found is None:
            base = stand_ins(self._rows, reached)
            if base != self._trials.cut:
                self._trials.take(base)
            found = self._known[key(choice.items())] = self._trials.measure(stand_ins(self._rows, choice))
            if self._learned is not None:
                self._learned(choice, found)
        return found


def stand_ins(rows: Mapping[Unit, Row], choice: Choice) -> dict[Unit, StandIn]:
    """What stands for the units of a choice."""
    return {unit: rows[unit].stand_in(form) for unit, form in choice.items()}


def key(choice: object) -> Key:
    """By which a choice is remembered."""
    return frozenset(choice)  # type: ignore[call-overload]
