"""Reports, and series of checkpoints, as a page to look at."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from linscore.errors import LinscoreError
from linscore.machine.extras import need
from linscore.options.cut import BY
from linscore.pages.page import Column, Heat, Line, Page, Section, Table, html
from linscore.pages.rows import EMPTY, datasets, labels
from linscore.pages.sections import lens_sections, number_section, report_sections, series_sections, token_sections
from linscore.pages.words import FIGURES
from linscore.scoring.block_figures import mean_of
from linscore.scoring.ranking import default_by, lowest_first, ranked
from linscore.scoring.report import Report
from linscore.scoring.table import concerning

PART = 5  # of the depth, that the commands to paste cut
SCORES = ("linearity_heldout", "linearity"), ("linearity_no_residual_heldout", "linearity_no_residual")


def page_of(
    reports: Sequence[Report],
    series: Mapping[str, Mapping[str, Any]] = EMPTY,
    tokens: Sequence[Mapping[str, Any]] = (),
    lenses: Sequence[Mapping[str, Any]] = (),
) -> str:
    """One self-contained HTML file of reports, of series of checkpoints, of errors of single tokens, and of lenses.

    Args:
        reports: of one model or several, which are drawn over each other.
        series: by their names, as `Dynamics.to_dict` gives them.
        tokens: as `TokenErrors.to_dict` gives them.
        lenses: as `Lens.to_dict` gives them.

    Raises:
        LinscoreError: for none of them, or without the packages that draw (`pip install 'linscore[html]'`).
    """
    check_page()
    if not (reports or series or tokens or lenses):
        raise LinscoreError("there is nothing to show: give a report, a series, errors of tokens or a lens")
    sources = [report.to_dict() for report in reports]
    rows = datasets(sources, series, tokens, lenses)
    sections = [*(report_sections(rows) if reports else ())]
    sections += [_ranking(reports)] * bool(reports)
    sections += [*(series_sections(rows) if series else ())]
    sections += [*(token_sections(rows, [_heat(one) for one in tokens]) if tokens else ())]
    sections += [*(lens_sections(rows, [*_grids(lenses)]) if lenses else ()), number_section()]
    page = Page(
        title=_title([*_names(reports), *series] or [one["model"] for one in (*tokens, *lenses)]),
        about=_about(reports, series, tokens, lenses),
        verdict=_verdict(reports),
        doubts=_doubts(reports),
        sections=[section for section in sections if section.charts or section.tables or section.saves],
        rows=rows,
        sources=[*sources, *series.values(), *tokens, *lenses],
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


def _title(names: Sequence[str]) -> str:
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
) -> str:
    parts = [
        f"{name}: {report.depth} blocks of width {report.width:,}, {report.tokens:,} tokens of "
        f"{report.text or 'an unnamed text'}, {report.folds} fold{'s' * (report.folds > 1)}, {report.dtype}"
        for name, report in zip(_names(reports), reports, strict=True)
    ]
    parts += [f"{name}: {len(of['steps'])} checkpoints on {of['tokens']:,} tokens" for name, of in series.items()]
    parts += [f"{one['model']}, token by token: {one['tokens']:,} of {one['text']}" for one in tokens]
    parts += [f"{one['model']}, depth by depth: {one['tokens']:,} tokens of {one['text']}" for one in lenses]
    return "; ".join(parts) + "."


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


def _ranking(reports: Sequence[Report]) -> Section:
    """The blocks of every model, what looks easiest to do without first."""
    defaults = {default_by(report) for report in reports}
    by = defaults.pop() if len(defaults) == 1 else BY
    note = f"By {FIGURES[by][0]}, {'lowest' if lowest_first(by) else 'highest'} first: {FIGURES[by][1]}."
    tables = [_order(report, name, by) for report, name in zip(reports, _names(reports), strict=True)]
    lines = [_to_paste(report, by) for report in reports]
    return Section("ranking", "What is easiest to do without", note, tables=tables, lines=lines)


def _to_paste(report: Report, by: str) -> Line:
    """Commands that cut the first blocks of the ranking, here and by other tools; DIR is where the report lies."""
    count = max(1, report.depth // PART)
    blocks = ",".join(str(span) for span in [*ranked(report, by, 1)][:count])
    asked = "" if by == default_by(report) else f" --by {by}"
    cuts = [
        f"linscore prune {shlex.quote(report.model)} --drop {blocks}{',' * (count == 1)} --out cut",
        f"linscore rank DIR --drop {count}{asked} --format mergekit > cut.yaml",
        f"linscore rank DIR --drop {count}{asked} --format llama.cpp",
    ]
    return Line(f"Cut the first {count} of {labels([report.model])[0]}", "\n".join(cuts))


def _order(report: Report, name: str, by: str) -> Table:
    order = ranked(report, by, 1)
    largest = max(map(abs, order.values())) or 1.0
    rows = [[nth, str(span), value, abs(value) / largest] for nth, (span, value) in enumerate(order.items(), 1)]
    columns = [Column("rank"), Column("block"), Column(*FIGURES[by]), Column("of the largest", bar=True)]
    return Table(f"Blocks of {name} by {FIGURES[by][0]}", columns, rows)
