"""The moments that maps are fitted from: those of a scored model, or of a second pass that the user asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreError
from linscore.jobs.cut_request import Wanted
from linscore.models.load import Pretrained
from linscore.scoring.collect import Collector
from linscore.scoring.report import MOMENTS, Report
from linscore.spans import Span
from linscore.statistics.moments import Moments
from linscore.statistics.moments_file import load_moments, stored_names


@dataclass(frozen=True)
class MapMoments:
    """Moments by name, and where they come from."""

    moments: dict[str, Moments]
    origin: dict[str, Any]  # model, text, tokens


def name_of(span: Span, form: str | None = None) -> str:
    """What `Collector` calls the moments of a span's states, or of the MLP before it against the span."""
    if form is not None:
        return f"fuse.{span}.{form}"
    return f"block.{span}" if span.first == span.last else f"span.{span}"


def find_moments(
    loaded: Pretrained, ask: Wanted, names: Mapping[Span, Sequence[str]], say: Callable[[str], None]
) -> MapMoments:
    """For each span the first of its names that is stored; a pass over the user's text where none is.

    Raises:
        LinscoreError: where moments are missing and no text was given.
    """
    path = None if ask.moments is None else Path(ask.moments) / MOMENTS
    stored = set() if path is None else stored_names(path)
    found = {span: next((name for name in wanted if name in stored), None) for span, wanted in names.items()}
    missing = [span for span, name in found.items() if name is None]
    if not missing and path is not None and ask.moments is not None:
        report = Report.load(ask.moments)
        moments, _ = load_moments(path, [name for name in found.values() if name is not None])
        return MapMoments(moments, {"model": report.model, "text": report.text, "tokens": report.tokens})
    spans = f"block{'s' * (len(missing) > 1 or missing[0].first < missing[0].last)} {', '.join(map(str, missing))}"
    if not ask.has_text:
        raise LinscoreError(
            f"there are no moments to fit a map for {spans} from: {_advice([names[span][0] for span in missing])}, "
            "or give --text or --dataset for a second pass"
        )
    say(f"a pass over {ask.source} for the moments of {spans}")
    return _collect(loaded, ask, {span: wanted[0] for span, wanted in names.items()})


def _advice(names: Sequence[str]) -> str:
    words = [word for word, part in (("fuse", "intermediate"), ("fuse-output", "output")) if _any(names, part)]
    lengths = {len(Span.parse(name.split(".")[1]).blocks) for name in names} - {1}
    words += ["spans"] if lengths else []
    more = f" --for {','.join(words)}" if words else ""
    more += f" --span-lengths {','.join(map(str, sorted(lengths)))}" if lengths else ""
    return f"score with `linscore score{more}` and give its folder as --moments"


def _any(names: Sequence[str], part: str) -> bool:
    return any(name.endswith(f".{part}") for name in names)


def _collect(loaded: Pretrained, ask: Wanted, names: Mapping[Span, str]) -> MapMoments:
    """The moments of these names, in one pass over the user's text."""

    def those(ending: Callable[[str], bool]) -> Collection[Span]:
        return [span for span, name in names.items() if ending(name)]

    collector = Collector(
        find_decoder(loaded.model),
        blocks=[next(iter(names)).first],  # one at least has to be scored
        spans=those(lambda name: not name.startswith("fuse.")),
        fuse=those(lambda name: name.endswith(".intermediate")),
        fuse_output=those(lambda name: name.endswith(".output")),
    )
    for batch in ask.batches(loaded)():
        collector.add(batch)
    tokens = collector.tokens - collector.nonfinite_rows
    origin = {"model": loaded.name, "text": str(ask.source), "tokens": tokens}
    return MapMoments({name: collector.moments[name] for name in names.values()}, origin)
