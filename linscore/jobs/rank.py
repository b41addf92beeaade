"""The job of `linscore rank`: the figures of a report in order, or perplexities measured for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from linscore.errors import LinscoreError
from linscore.options import PlaceOptions, TextOptions
from linscore.scoring.ranking import PERPLEXITY, rank
from linscore.scoring.report import Report
from linscore.spans import Span


def run_rank(
    folder: str, by: str, *, span: int = 1, text: TextOptions | None = None, place: PlaceOptions | None = None
) -> Mapping[Span, float | None]:
    """The figure `by` of every block or span of `span` blocks of a scored model, the first to go first.

    By "perplexity" the model that was scored is loaded, and each of them left out of it on a text, by default the
    built-in one.

    Raises:
        LinscoreError: for a folder, metric or text that cannot be used.
    """
    report, text = Report.load(folder), text or TextOptions()
    place = place or PlaceOptions()
    if by == PERPLEXITY:
        return _measured(report, span, text, place)
    if text != TextOptions() or place != PlaceOptions():
        given = "`text`, `dataset`, `tokens` and `trust_remote_code`"
        raise LinscoreError(f"{given} belong to `by={PERPLEXITY}`: leave them out")
    return {one.span: getattr(one, by) for one in rank(report, by, span=span)}


def _measured(report: Report, span: int, text: TextOptions, place: PlaceOptions) -> Mapping[Span, float | None]:
    """The perplexity without every block or span."""
    # transformers takes seconds to import, and reading a report needs none of it.
    from linscore.models.load import load_pretrained
    from linscore.progress import watched
    from linscore.scoring.belongs import check_belongs
    from linscore.surgery.choose import measured_figures
    from linscore.text.source import Text

    read = Text(text)
    read.source.check()
    loaded = load_pretrained(report.model, **asdict(place))
    decoder = loaded.decoder
    check_belongs(report, decoder, loaded.name)
    batches = read.batches(loaded.tokenizer, loaded.context, loaded.model.device)
    measured = watched(batches, read.expected_tokens(loaded.tokenizer), "measuring")
    return measured_figures(decoder, measured, PERPLEXITY, span)
