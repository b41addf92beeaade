"""The job of `linscore linearize`: linear blocks in the place of blocks and spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linscore.errors import LinscoreError
from linscore.jobs.cut import Cut, Result, Say, quiet_say, read_ridge, replaced, run_cut
from linscore.jobs.cut_moments import find_moments
from linscore.jobs.cut_request import CutRequest
from linscore.models.load import Pretrained
from linscore.options import CutOptions, MapOptions, PlaceOptions, TextOptions
from linscore.scoring.names import MomentsName
from linscore.spans import Span
from linscore.statistics.maps import fit_block_map


def run_linearize(
    model: str,
    *,
    out: str,
    cut: CutOptions,
    form: MapOptions | None = None,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    say: Say = quiet_say,
) -> Cut:
    """Put linear blocks in the place of blocks and spans of `model`, and save it to `out`.

    A list such as "3,5-7" names one map for block 3 and one for the whole span 5 to 7.

    Raises:
        LinscoreError: as `run_prune`, and for maps that cannot be fitted.
    """
    request, form = CutRequest(cut, text or TextOptions()), form or MapOptions()
    if form.diagonal and form.mean:
        raise LinscoreError("`diagonal` and `mean` are both given: give one")
    kind = "diagonal" if form.diagonal else "mean" if form.mean else "full"
    options: dict[str, Any] = {"kind": kind}
    ridge = None if kind != "full" and form.ridge is None else read_ridge(form.ridge)

    def operate(loaded: Pretrained, spans: Sequence[Span]) -> Result:
        names = {span: MomentsName.across(span) for span in spans}
        source = find_moments(loaded, request, {span: [name] for span, name in names.items()}, say)
        fits = {
            span: fit_block_map(source.moments[str(name)], rank=form.rank, ridge=ridge, **options)
            for span, name in names.items()
        }
        return replaced(loaded.model, source, fits)

    return run_cut(model, "linearize", out, request, place or PlaceOptions(), operate, say)
