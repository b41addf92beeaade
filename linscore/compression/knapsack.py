"""The choice that is thought to add least: where units add by themselves, one table of sums over blocks finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from linscore.compression.choices import Choice, Form, with_form
from linscore.spans import Unit

BINS = 4000  # of what is to be saved: what an option saves is rounded down to one


def likeliest(
    forms: Mapping[Unit, Sequence[Form]],
    saved: Mapping[tuple[Unit, Form], float],
    expected: Callable[[Unit, Form], float],
    enough: float,
) -> Choice | None:
    """The choice that saves `enough` and is expected to add least to the loss; None where none saves as much.

    Args:
        forms: of each unit, single blocks and their parts.
        saved: what each form of each unit saves.
        expected: what it is thought to add.
        enough: what is to be saved in all.
    """
    least, taken = np.full(BINS + 1, np.inf), []  # by bins that are saved
    least[0] = 0.0
    blocks = [list(_options(unit, forms)) for unit in forms if not unit.part]
    for options in blocks:
        found, which, origin = np.full(BINS + 1, np.inf), np.zeros(BINS + 1, int), np.zeros(BINS + 1, int)
        for number, option in enumerate(options):
            bins = int(sum(saved[one] for one in option.items()) / enough * BINS)
            added = sum(expected(*one) for one in option.items())
            _better(found, which, origin, least + added, bins, number)
        taken.append((which, origin))
        least = found
    if not np.isfinite(least[BINS]):
        return None
    choice: dict[Unit, Form] = {}
    at = BINS
    for options, (which, origin) in zip(reversed(blocks), reversed(taken), strict=True):
        choice |= options[which[at]]
        at = origin[at]
    return choice


def _better(
    found: np.ndarray, which: np.ndarray, origin: np.ndarray, with_option: np.ndarray, bins: int, number: int
) -> None:
    """Take an option wherever it adds less than what was found; what saves more than enough is in the last bin."""
    bins = min(max(bins, 0), BINS)
    starts = np.arange(BINS + 1)
    ends = np.minimum(starts + bins, BINS)
    over = starts >= BINS - bins
    best = BINS - bins + int(np.argmin(with_option[over]))  # of all that reach the last bin
    for start, end in ((starts[~over], ends[~over]), (np.array([best]), np.array([BINS]))):
        less = with_option[start] < found[end]
        found[end[less]], which[end[less]], origin[end[less]] = with_option[start[less]], number, start[less]


def _options(block: Unit, forms: Mapping[Unit, Sequence[Form]]) -> Iterator[Choice]:
    """What one block may become."""
    yield {}
    for form in forms[block]:
        yield {block: form}
    attention, mlp = (Unit(block.span, part) for part in ("attention", "mlp"))
    for form in forms.get(attention, ()):
        yield {attention: form}
    for form in forms.get(mlp, ()):
        yield {mlp: form}
        for other in forms.get(attention, ()):
            both = with_form({attention: other}, mlp, form)
            if block not in both:
                yield both
