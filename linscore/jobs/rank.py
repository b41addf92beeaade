"""The job of `linscore rank`: the figures of a report in order, or perplexities measured for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from linscore.errors import LinscoreError
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.scoring.ranking import PERPLEXITY, default_by, figure_of, rank
from linscore.scoring.report import Report
from linscore.spans import Span


@dataclass(frozen=True)
class Ranking:
    """Blocks or spans in order.

    Attributes:
        by: the figure that orders them.
        figures: its values, the first to go first.
        whole: the perplexity with nothing left out; None for other figures.
    """

    by: str
    figures: Mapping[Span, float | None]
    whole: float | None = None


def run_rank(
    folder: str,
    by: str | None = None,
    *,
    span: int = 1,
    text: TextOptions | None = None,
    place: PlaceOptions | None = None,
) -> Ranking:
    """The blocks, or spans of `span` blocks, of a scored model in the order of the figure `by`.

    By default that is perplexity where a text is given, else the expected loss where the report has it, else block
    influence. By perplexity the model that was scored is loaded, and each of them left out of it on the text, or on the
    built-in one.

    Raises:
        LinscoreError: for a folder, metric or text that cannot be used.
    """
    report, text = Report.load(folder), text or TextOptions()
    by, place = figure_of(by or (PERPLEXITY if text.given else default_by(report))), place or PlaceOptions()
    if by == PERPLEXITY:
        return _measured(report, span, text, place)
    if text != TextOptions() or place != PlaceOptions():
        given = "`text`, `dataset`, `tokens` and `trust_remote_code`"
        raise LinscoreError(f"{given} belong to `by={PERPLEXITY}`: leave them out")
    return Ranking(by, {one.span: getattr(one, by) for one in rank(report, by, span=span)})


def _measured(report: Report, span: int, text: TextOptions, place: PlaceOptions) -> Ranking:
    """The perplexity without every block or span."""
    # transformers takes seconds to import, and reading a report needs none of it.
    from linscore.jobs.passes import Passes, windows
    from linscore.models.load import load_pretrained
    from linscore.scoring.belongs import check_belongs
    from linscore.surgery.choose import measured_figures
    from linscore.text.source import Text

    read = Text(text)
    read.source.check()
    loaded = load_pretrained(report.model, **asdict(place))
    decoder = loaded.decoder
    check_belongs(report, decoder, loaded.name)
    measured = measured_figures(decoder, Passes(loaded, read, windows(loaded))(), PERPLEXITY, span)
    return Ranking(PERPLEXITY, measured.figures, measured.whole)
