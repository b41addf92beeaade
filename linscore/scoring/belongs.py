"""Whether a report is of this model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from linscore.decoder.find import Decoder, weight_sample
from linscore.errors import LinscoreError
from linscore.scoring.report import Report

# The median relative difference of a few weights of one model in different dtypes (decisions: Whose moments).
SAME = 0.005


def check_belongs(report: Report, decoder: Decoder, name: str) -> None:
    """Make sure that a report is of the model called `name`.

    Raises:
        LinscoreError: if it was scored on a model of another shape, or on other weights.
    """
    have, need = (report.depth, report.width), (len(decoder.blocks), decoder.width)
    if have != need:
        raise LinscoreError(
            f"`moments` were scored on a model of {have[0]} blocks, width {have[1]} ({report.model}), but "
            f"{name} has {need[0]}, width {need[1]}: score {name} first"
        )
    if not _alike(report.weight_sample, weight_sample(decoder)):
        raise LinscoreError(
            f"`moments` were scored on other weights ({report.model}) than those of {name}: score it first"
        )


def _alike(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    """Rounding to 16 bits moves a weight by 0.4 % at most; training moves most weights further."""
    if one is None or other is None:  # nothing to tell them apart by
        return True
    if len(one) != len(other):
        return False
    known = [(a, b) for a, b in zip(one, other, strict=True) if a and b]
    return not known or median(abs(a - b) / max(abs(a), abs(b)) for a, b in known) <= SAME
