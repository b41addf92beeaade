"""Reports, and series of checkpoints, as a page to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from linscore.errors import LinscoreError
from linscore.machine.extras import need
from linscore.pages.cut_rows import cut_datasets
from linscore.pages.page import Column, Heat, Page, Table, html
from linscore.pages.rows import EMPTY, datasets, labels
from linscore.pages.sections import (
    cut_sections,
    lens_sections,
    number_section,
    report_sections,
    series_sections,
    token_sections,
)
from linscore.pages.words import FIGURES
from linscore.scoring.block_figures import mean_of
from linscore.scoring.cuts_on_page import left_table, ranking_section
from linscore.scoring.ranking import default_by, ranked
from linscore.scoring.report import Report
from linscore.scoring.table import concerning

SCORES = ("linearity_heldout", "linearity"), ("linearity_no_residual_heldout", "linearity_no_residual")


def page_of(
    reports: Sequence[Report],
    series: Mapping[str, Mapping[str, Any]] = EMPTY,
    tokens: Sequence[Mapping[str, Any]] = (),
    lenses: Sequence[Mapping[str, Any]] = (),
    cuts: Mapping[str, Mapping[str, Any]] = EMPTY,
    *,
    folders: Sequence[str] | None = None,
) -> str:
    """One self-contained HTML file of reports, of series of checkpoints, of errors of single tokens, lenses and cuts.

    Args:
        reports: of one model or several, which are drawn over each other.
        series: by their names, as `Dynamics.to_dict` gives them.
        tokens: as `TokenErrors.to_dict` gives them.
        lenses: as `Lens.to_dict` gives them.
        cuts: models that were cut, by their folders: `record` (linscore.json), `compressed` (compress.json, or None)
            and `losses` (the lines of losses.jsonl).
        folders: where the reports lie, for the commands to paste.

    Raises:
        LinscoreError: for none of them, or without the packages that draw (`pip install 'linscore[html]'`).
    """
    check_page()
    if not (reports or series or tokens or lenses or cuts):
        raise LinscoreError("there is nothing to show: give a report, a series, errors of tokens, a lens or a cut")
    sources = [report.to_dict() for report in reports]
    rows = datasets(sources, series, tokens, lenses) | cut_datasets(cuts)
    sections = [*(report_sections(rows) if reports else ())]
    sections += [ranking_section(reports, _names(reports), folders)] * bool(reports)
    sections += [*(cut_sections(rows, left_table(cuts)) if cuts else ())]
    sections += [*(series_sections(rows) if series else ())]
    sections += [*(token_sections(rows, [_heat(one) for one in tokens]) if tokens else ())]
    sections += [*(lens_sections(rows, [*_grids(lenses)]) if lenses else ()), number_section()]
    page = Page(
        title=_title([*_names(reports), *series] or [one["model"] for one in (*tokens, *lenses)], cuts),
        about=_about(reports, series, tokens, lenses, cuts),
        verdict=_verdict(reports),
        doubts=_doubts(reports),
        sections=[section for section in sections if section.charts or section.tables or section.cuts or section.saves],
        rows=rows,
        sources=[*sources, *series.values(), *tokens, *lenses, *cuts.values()],
    )
    return html(page)


def check_page() -> None:
    """Make sure that a page can be drawn, before work begins that would end without one.

    Raises:
        LinscoreError: without the packages that it takes; says what to install.
    """
    need("html", "a page", "altair", "vl_convert", "jinja2")


def frame_of(report: Report, height: int = 900) -> str:
    """The page of a report inside a frame, as a notebook shows it."""
    return f'<iframe srcdoc="{escape(page_of([report]))}" width="100%" height="{height}" frameborder="0"></iframe>'


def _names(reports: Sequence[Report]) -> list[str]:
    return labels([report.model for report in reports])


def _title(names: Sequence[str], cuts: Mapping[str, Mapping[str, Any]]) -> str:
    if not names:
        return (
            f"What cutting {', '.join(labels([*dict.fromkeys(cut['record']['model'] for cut in cuts.values())]))} costs"
        )
    return f"{labels(names)[0]}, block by block" if len(names) == 1 else f"{len(names)} models, block by block"


def _heat(tokens: Mapping[str, Any]) -> Heat:
    """The first tokens of the text, and their shares in each block."""
    sample, blocks = tokens["sample"], [str(block["index"]) for block in tokens["blocks"]]
    return Heat(
        f"The text's first tokens in {labels([tokens['model']])[0]}", sample["tokens"], blocks, sample["shares"]
    )


def _grids(lenses: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """The likeliest next token at every depth, one column a token of the text."""
    for name, lens in zip(labels([one["model"] for one in lenses]), lenses, strict=True):
        if (found := lens["predictions"]) is not None:
            columns = [Column("depth"), *(Column(token, left=True) for token in found["tokens"])]
            rows = [[depth, *tops] for depth, tops in enumerate(found["tops"])]
            yield Table(f"The likeliest next token, read off every depth of {name}", columns, rows)


def _about(
    reports: Sequence[Report],
    series: Mapping[str, Any],
    tokens: Sequence[Mapping[str, Any]],
    lenses: Sequence[Mapping[str, Any]],
    cuts: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    parts = [
        f"{name}: {report.depth} blocks of width {report.width:,}, {report.tokens:,} tokens of "
        f"{report.text or 'an unnamed text'}, {report.folds} fold{'s' * (report.folds > 1)}, {report.dtype}"
        for name, report in zip(_names(reports), reports, strict=True)
    ]
    parts += [f"{name}: {len(of['steps'])} checkpoints on {of['tokens']:,} tokens" for name, of in series.items()]
    parts += [f"{one['model']}, token by token: {one['tokens']:,} of {one['text']}" for one in tokens]
    parts += [f"{one['model']}, depth by depth: {one['tokens']:,} tokens of {one['text']}" for one in lenses]
    parts += [f"{name}, cut from {cut['record']['model']}" for name, cut in cuts.items()]
    return parts


def _verdict(reports: Sequence[Report]) -> list[str]:
    """Two sentences: how linear, and which block is the easiest to do without."""
    if len(reports) == 1:
        return _verdict_of_one(reports[0])
    told = [f"{name} {_percent(_mean(report, 1))}" for name, report in zip(_names(reports), reports, strict=True)]
    return [f"Of what their blocks add, an affine map explains on average: {', '.join(told)}."] if reports else []


def _verdict_of_one(report: Report) -> list[str]:
    with_residual, without = (_values(report, which) for which in (0, 1))
    how = "held out" if report.folds > 1 else "in-sample"
    first = (
        f"An affine map explains {_range(with_residual)} of what leaves a block and {_range(without)} of what a block "
        f"adds ({how}; on average {_percent(_mean(report, 0))} and {_percent(_mean(report, 1))})."
    )
    by = default_by(report)
    order = ranked(report, by, 1)
    (easiest, least), (hardest, most) = next(iter(order.items())), next(reversed(order.items()))
    second = (
        f"By {FIGURES[by][0]} block {easiest} is the easiest to do without ({least:.3g}) and block {hardest} the "
        f"hardest ({most:.3g}); what leaving it out costs is measured by linscore rank with a text."
    )
    return [first, second]


def _values(report: Report, which: int) -> list[float]:
    """A score of every block that has it: held out where it is."""
    for name in SCORES[which]:
        found = [value for block in report.blocks if (value := getattr(block, name)) is not None]
        if found:
            return found
    return []


def _mean(report: Report, which: int) -> float | None:
    return mean_of(_values(report, which))


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1%} to {max(values):.1%}" if values else "an unknown part"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _doubts(reports: Sequence[Report]) -> list[str]:
    """The warnings of every report, behind its name where there are several."""
    named = [[name] if len(reports) > 1 else [] for name in _names(reports)]
    return [
        ": ".join([*name, concerning(doubt)])
        for report, name in zip(reports, named, strict=True)
        for doubt in report.warnings
    ]
