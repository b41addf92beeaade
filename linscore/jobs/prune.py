"""The job of `linscore prune`: drop blocks, and save what is left."""

from __future__ import annotations

from collections.abc import Sequence

from linscore.jobs.cut import Cut, Result, run_cut
from linscore.jobs.cut_request import CutRequest
from linscore.models.load import Pretrained
from linscore.options import CutOptions, PlaceOptions, TextOptions
from linscore.spans import Span, after, indices, runs
from linscore.surgery.drop import drop
from linscore.surgery.record import Replacement


def run_prune(
    model: str, *, out: str, cut: CutOptions, text: TextOptions | None = None, place: PlaceOptions | None = None
) -> Cut:
    """Drop blocks of `model` and save what is left to `out`.

    Raises:
        LinscoreError: for any input that cannot be used, and when `out` exists; nothing is written then.
    """
    request = CutRequest(cut, text or TextOptions(), fits=False)
    return run_cut(model, "drop", out, request, place or PlaceOptions(), _dropped)


def _dropped(loaded: Pretrained, spans: Sequence[Span]) -> Result:
    gone = indices(spans)
    cut, where = drop(loaded.model, gone), {span: after(span.first, gone) - 1 for span in runs(gone)}
    return Result(cut, [Replacement(str(span), "dropped", i if i >= 0 else None) for span, i in where.items()])
