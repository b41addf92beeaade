"""The job of `linscore linearize`: linear blocks in the place of blocks and spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from linscore.errors import LinscoreError
from linscore.jobs.cut import Cut, Result, Say, quiet_say, read_ridge, replaced, run_cut
from linscore.jobs.cut_moments import find_moments
from linscore.jobs.cut_request import CutRequest
from linscore.models.load import Pretrained
from linscore.options.cut import CutOptions, MapOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.scoring.names import MomentsName
from linscore.spans import Unit
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
    """Put maps in the place of blocks, spans, and attention or MLP of blocks of `model`, and save it to `out`.

    A list such as "3,5-7,8.mlp" names one map for block 3, one for the whole span 5 to 7, one for the MLP of block 8.

    Raises:
        LinscoreError: as `run_prune`, and for maps that cannot be fitted.
    """
    request, form = CutRequest(cut, text or TextOptions()), form or MapOptions()
    if form.diagonal and form.mean:
        raise LinscoreError("`diagonal` and `mean` are both given: give one")
    kind = "diagonal" if form.diagonal else "mean" if form.mean else "full"
    options: dict[str, Any] = {"kind": kind}
    ridge = None if kind != "full" and form.ridge is None else read_ridge(form.ridge)

    def operate(loaded: Pretrained, units: Sequence[Unit]) -> Result:
        names = {unit: MomentsName.of(unit) for unit in units}
        source = find_moments(loaded, request, {unit: [name] for unit, name in names.items()}, say)
        fits = {
            unit: fit_block_map(source.moments[str(name)], rank=form.rank, ridge=ridge, **options)
            for unit, name in names.items()
        }
        return replaced(loaded.model, source, fits)

    return run_cut(model, "linearize", out, request, place or PlaceOptions(), operate, say)
