"""The time that goes with each form of each unit: measured on this machine, on decoders in which all of a kind have it.

One unit of many would drown in noise, so all alike are replaced at once, and what is saved is shared out.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from linscore.compression.choices import Form, forms_of
from linscore.compression.forms import Row
from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.stand_ins import kinds
from linscore.errors import LinscoreError
from linscore.machine.timing import interleaved
from linscore.models.latency import Workload, call_of
from linscore.spans import Unit
from linscore.surgery.linearize import replace_units

ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """Seconds of one call.

    Attributes:
        workload: what is timed.
        whole: of the whole decoder.
        saved: by unit and form, as they are written.
    """

    workload: str
    whole: float
    saved: dict[str, dict[str, float]]

    def saves(self, unit: Unit, form: Form) -> float:
        """What a form of a unit saves."""
        return self.saved[str(unit)][str(form)]


def timed(decoder: Decoder, other: Any, workload: Workload) -> tuple[float, float]:
    """Seconds of a decoder, and the share of them that another model takes, timed in turns.

    Raises:
        LinscoreError: where the other does not run.
    """
    timing = interleaved(call_of(decoder, workload), {"cut": call_of(find_decoder(other), workload)}, rounds=ROUNDS)
    if timing.missing:
        raise LinscoreError(f"a cut of {decoder.name} does not run on {workload}: {timing.missing['cut']}")
    return timing.median, timing.ratio("cut")


def unit_latency(decoder: Decoder, rows: Mapping[Unit, Row], workload: Workload, say: Callable[[str], None]) -> Latency:
    """Time every form of every kind of unit.

    Args:
        decoder: the whole one.
        rows: all units.
        workload: what is timed.
        say: takes a line.

    Raises:
        LinscoreError: where it does not run.
    """
    say(f"timing what forms save of {workload}")
    shares: dict[str, dict[str, float]] = defaultdict(dict)
    wholes = []
    for units in _alike(decoder, rows):
        most = 1.0
        for form in forms_of(decoder.width):  # the one that holds least first: what holds more saves no more
            fitted = {unit: rows[unit].fitted(form) for unit in units[len(units) > 1 :]}  # one block must be left
            seconds, left = timed(decoder, replace_units(decoder.model, fitted, share=True), workload)
            wholes.append(seconds)
            most = min(most, max(0.0, 1 - left) / len(fitted))
            shares |= {str(unit): shares[str(unit)] | {str(form): most} for unit in units}
    whole = statistics.median(wholes)
    saved = {unit: {form: whole * share for form, share in forms.items()} for unit, forms in shares.items()}
    return Latency(str(workload), whole, saved)


def _alike(decoder: Decoder, rows: Mapping[Unit, Row]) -> Iterator[list[Unit]]:
    """Units of the same part in blocks of the same kind."""
    groups: dict[tuple[str, int], list[Unit]] = defaultdict(list)
    same = kinds(decoder.blocks)
    for unit in sorted(rows):
        groups[unit.part, same[unit.span.first]].append(unit)
    yield from groups.values()
