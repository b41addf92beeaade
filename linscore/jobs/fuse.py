"""The job of `linscore fuse`: blocks go, and the MLPs before them stand for them too."""

from __future__ import annotations

from collections.abc import Sequence

from linscore.decoder.find import Decoder
from linscore.decoder.mlp_output import find_projection
from linscore.errors import LinscoreError, one_of
from linscore.files.places import within
from linscore.jobs.cut import Cut, Result, Say, quiet_say, read_ridge, replaced, run_cut
from linscore.jobs.cut_moments import find_moments
from linscore.jobs.cut_request import CutRequest
from linscore.models.load import Pretrained
from linscore.options.cut import CutOptions, FuseOptions, MapOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.scoring.names import MomentsName
from linscore.spans import Span, Unit, indices, runs
from linscore.statistics.maps import fit_block_map
from linscore.surgery.fuse import FORMS, fit_fusion


def run_fuse(
    model: str,
    *,
    out: str,
    cut: CutOptions,
    fusing: FuseOptions | None = None,
    form: MapOptions | None = None,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
    say: Say = quiet_say,
) -> Cut:
    """Drop blocks of `model`, fold their map into the MLP before them, and save what is left to `out`.

    Neighbours are fused as one span. `fusing.auto` puts a linear block where nothing can be fused, and says why.

    Raises:
        LinscoreError: as `run_prune`, and where a span cannot be fused and `fusing.auto` is not set.
    """
    request, fusing = CutRequest(cut, text or TextOptions(), parts=False), fusing or FuseOptions()
    one_of("on", fusing.on, FORMS)
    ridge = read_ridge((form or MapOptions()).ridge)

    def operate(loaded: Pretrained, units: Sequence[Unit]) -> Result:
        merged = runs(indices(unit.span for unit in units))
        reasons = _cannot_be_fused(loaded.decoder, merged, fusing.auto)
        names = {
            span: [MomentsName.across(span)]
            if span in reasons
            else [MomentsName.fused(span, side) for side in FORMS[fusing.on]]
            for span in merged
        }
        source = find_moments(loaded, request, {Unit(span): wanted for span, wanted in names.items()}, say)
        maps = {Unit(span): fit_block_map(source.moments[str(names[span][0])], ridge=ridge) for span in reasons}
        fused = [span for span in merged if span not in reasons]
        fusions = {span: fit_fusion(loaded.model, span, source.moments, on=fusing.on, ridge=ridge) for span in fused}
        told = {span: within(why, loaded.decoder.name) for span, why in reasons.items()}
        return replaced(loaded.model, source, maps, fusions, told)

    return run_cut(model, "fuse", out, request, place or PlaceOptions(), operate, say)


def _cannot_be_fused(decoder: Decoder, spans: Sequence[Span], auto: bool) -> dict[Span, str]:
    """Why some of these spans cannot be fused; without `auto` the first reason is an error."""
    reasons = {span: "block 0 has no MLP before it" for span in spans if span.first == 0}
    try:
        find_projection(decoder)
    except LinscoreError as error:
        reasons = dict.fromkeys(spans, str(error))
    if reasons and not auto:
        raise LinscoreError(f"{next(iter(reasons.values()))}; give `auto` for a linear block there")
    return reasons
