"""The job of `linscore rank` with a format: the cut that the ranking leads to, for the tool that is to make it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from linscore.embedded.shipped import SHIPPED
from linscore.errors import LinscoreError
from linscore.jobs.cut_request import CutRequest
from linscore.models.load import load_on_paper, load_pretrained
from linscore.options.cut import CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.scoring.belongs import check_belongs
from linscore.scoring.report import Report
from linscore.spans import indices
from linscore.surgery.choose import Choice, choose_from
from linscore.surgery.drop_blocks import cut_on_paper
from linscore.surgery.same_cut import SameCut, same_cut


@dataclass(frozen=True)
class RankedCut:
    """Blocks that are to go.

    Attributes:
        model: Hub name or folder.
        drop: the blocks that go, in the order in which they were chosen.
        survivors: the blocks that stay.
        by: the figure that ranked them; None: they were named.
        figures: its values, by span ("3-5"), as in the record of a cut.
        same_cut: what mergekit and llama.cpp are told.
    """

    model: str
    drop: list[int]
    survivors: list[int]
    by: str | None
    figures: Mapping[str, float]
    same_cut: SameCut


def run_rank_cut(
    folder: str, cut: CutOptions, *, text: TextOptions | None = None, place: PlaceOptions | None = None
) -> RankedCut:
    """The blocks of a scored model that `linscore prune` would drop if it were asked the same, without its weights.

    They are loaded only where the ranking is measured on a text.

    Raises:
        LinscoreError: for input that cannot be used, and for blocks that `linscore.drop` refuses, as far as a model
            without weights shows.
    """
    report, text, place = Report.load(folder), text or TextOptions(), place or PlaceOptions()
    request = CutRequest(cut, text, fits=False, parts=False)
    if request.number is not None:
        request = replace(request, cut=replace(cut, moments=folder))
    elif cut.by is not None or cut.span != 1:
        raise LinscoreError(f"`blocks={cut.blocks}` names the blocks: leave out `by` and `span`, or give a number")
    request.check()
    choice = None if request.number is None else _chosen(request, report, place)
    gone = indices(unit.span for unit in request.named()) if choice is None else choice.blocks
    # A device that need not be there: on a CPU float16 would turn into float32.
    decoder = load_on_paper(report.model, device="cuda", trust_remote_code=place.trust_remote_code)
    check_belongs(report, decoder, report.model)
    survivors, after = cut_on_paper(decoder, gone)
    before: Any = decoder.model.config
    same = same_cut(_place(report.model), gone, report.depth, before.get_text_config().dtype, before, after.config)
    if same is None:
        raise LinscoreError(f"{report.model} holds linear blocks, which no other tool cuts: use `linscore prune`")
    by, figures = (None, {}) if choice is None else (choice.by, choice.figures)
    return RankedCut(report.model, gone, survivors, by, figures, same)


def _place(name: str) -> str:
    """Where other tools find a model: a folder such as `runs/a` would be looked for on the Hub, too."""
    place = str(SHIPPED.get(name, name))
    return f"./{place}" if os.path.isdir(place) and not place.startswith((os.sep, ".")) else place


def _chosen(request: CutRequest, report: Report, place: PlaceOptions) -> Choice:
    assert request.number is not None
    if not request.measures:
        return choose_from(report, request.number, by=request.cut.by, span=request.cut.span)
    loaded = load_pretrained(report.model, **asdict(place))
    decoder = loaded.decoder
    check_belongs(report, decoder, loaded.name)
    return request.choose(loaded, decoder, report)
