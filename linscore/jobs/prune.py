"""The job of `linscore prune`: drop blocks, or their attention or MLP, and save what is left."""

from __future__ import annotations

from collections.abc import Sequence

from linscore.jobs.cut import Cut, Result, run_cut
from linscore.jobs.cut_request import CutRequest
from linscore.models.load import Pretrained
from linscore.options.cut import CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.spans import Unit, after, indices, runs
from linscore.surgery.drop import drop_units
from linscore.surgery.record import Replacement


def run_prune(
    model: str, *, out: str, cut: CutOptions, text: TextOptions | None = None, place: PlaceOptions | None = None
) -> Cut:
    """Drop blocks of `model`, or attention and MLP of some ("3.mlp,5"), and save what is left to `out`.

    Raises:
        LinscoreError: for any input that cannot be used, and when `out` exists; nothing is written then.
    """
    request = CutRequest(cut, text or TextOptions(), fits=False)
    return run_cut(model, "drop", out, request, place or PlaceOptions(), _dropped)


def _dropped(loaded: Pretrained, units: Sequence[Unit]) -> Result:
    parts = [unit for unit in units if unit.part]
    gone = indices(unit.span for unit in units if not unit.part)
    cut = drop_units(loaded.decoder, [*gone, *parts], share=True)
    where = {Unit(span): after(span.first, gone) - 1 for span in runs(gone)}
    where |= {unit: after(unit.span.first, gone) for unit in parts}
    return Result(cut, [Replacement(str(unit), "dropped", i if i >= 0 else None) for unit, i in sorted(where.items())])
