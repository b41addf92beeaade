"""The moments that maps are fitted from: those of a scored model, or of a second pass that the user asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError
from linscore.jobs.cut_request import CutRequest
from linscore.jobs.passes import Passes
from linscore.models.load import Pretrained
from linscore.scoring.belongs import check_belongs
from linscore.scoring.collect import Collector
from linscore.scoring.names import MomentsName
from linscore.scoring.report import MOMENTS, Report
from linscore.spans import PARTS, Unit
from linscore.statistics.moments import Moments
from linscore.statistics.moments_file import load_moments, stored_names


@dataclass(frozen=True)
class MapMoments:
    """Moments by name, and where they come from."""

    moments: dict[str, Moments]
    origin: dict[str, Any]  # model, text, tokens


def find_moments(
    loaded: Pretrained,
    request: CutRequest,
    names: Mapping[Unit, Sequence[MomentsName]],
    say: Callable[[str], None],
) -> MapMoments:
    """For each unit the first of its names that is stored; a pass over the user's text where none is.

    Raises:
        LinscoreError: where moments are missing and no text was given.
    """
    folder = request.cut.moments
    stored = set() if folder is None else stored_names(Path(folder) / MOMENTS)
    found = {unit: next((str(name) for name in wanted if str(name) in stored), None) for unit, wanted in names.items()}
    missing = [unit for unit, name in found.items() if name is None]
    if not missing and folder is not None:
        report = Report.load(folder)
        moments, facts = load_moments(Path(folder) / MOMENTS, [name for name in found.values() if name is not None])
        check_belongs(report, loaded.decoder, loaded.name)  # again: since then it may have been replaced
        if facts.get("run") != report.run:
            raise LinscoreError(f"{folder} is being replaced by another run: score {loaded.name} again")
        return MapMoments(moments, {"model": report.model, "text": report.text, "tokens": report.tokens})
    several = len(missing) > 1 or missing[0].span.first < missing[0].span.last
    units = f"block{'s' * several} {', '.join(map(str, missing))}"
    if not request.options.given:
        raise LinscoreError(
            f"there are no moments to fit a map for {units} from: {_advice([names[unit][0] for unit in missing])}, "
            "or give `text` or `dataset` for a second pass"
        )
    say(f"a pass over {request.text} for the moments of {units}")
    return _collect(loaded, request, [wanted[0] for wanted in names.values()])


def _advice(names: Sequence[MomentsName]) -> str:
    """What to score for these moments."""
    purposes = [word for word, part in (("fuse", "intermediate"), ("fuse-output", "output")) if _any(names, part)]
    lengths = sorted({len(name.span.blocks) for name in names} - {1})
    purposes += ["spans"] if lengths else []
    more = " --sub-blocks" if any(name.part in PARTS for name in names) else ""
    more += f" --for {','.join(purposes)}" if purposes else ""
    more += f" --span-lengths {','.join(map(str, lengths))}" if lengths else ""
    return f"score with `linscore score{more}` and give its folder as `moments`"


def _any(names: Sequence[MomentsName], part: str) -> bool:
    return any(name.part == part for name in names)


def _collect(loaded: Pretrained, request: CutRequest, names: Sequence[MomentsName]) -> MapMoments:
    """The moments of these names, in one pass over the user's text."""
    parts = [name.span.first for name in names if name.part in PARTS]
    collector = Collector(
        loaded.decoder,
        blocks=parts or [names[0].span.first],  # one at least has to be scored
        sub_blocks=bool(parts),
        spans=[name.span for name in names if name.kind != "fuse" and name.part not in PARTS],
        fuse=[name.span for name in names if name.part == "intermediate"],
        fuse_output=[name.span for name in names if name.part == "output"],
    )
    for batch in Passes(loaded, request.text)():
        collector.add(batch)
    tokens = collector.tokens - collector.nonfinite_rows
    origin = {"model": loaded.name, "text": str(request.text), "tokens": tokens}
    return MapMoments({str(name): collector.moments[str(name)] for name in names}, origin)
