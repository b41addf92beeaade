"""A page: what stands on it as data, and the one file that comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from linscore.pages.drawing import Spec
from linscore.pages.rows import Datasets
from linscore.pages.words import FIGURES, TABLES


@dataclass(frozen=True)
class Chart:
    """A chart; the caption says how to read it."""

    spec: Spec
    caption: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table: of figures, of text that begins at the `left`, or of bars (0 to 1)."""

    heading: str
    meaning: str = ""
    bar: bool = False
    left: bool = False


@dataclass(frozen=True)
class Table:
    """A table."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Line:
    """Text to copy, as it stands."""

    heading: str
    text: str


BLOCKS = "{blocks}"  # stands in the line of a `Cut` for the blocks that are ticked


@dataclass(frozen=True)
class Cut:
    """Blocks in the order in which they would go, to be ticked, and lines to copy that cut those that are.

    Attributes:
        table: a row for each block.
        picked: how many of the first are ticked to begin with.
        lines: each with `BLOCKS` in it.
        blocks: of each row.
        sums: what is added up, by how it is told: "{some}" stands for the sum of the rows that are ticked, "{all}" of
            all.
    """

    table: Table
    picked: int
    lines: Sequence[Line]
    blocks: Sequence[int]
    sums: Mapping[str, Sequence[float]]

    @property
    def ticked(self) -> str:
        """What is ticked to begin with, as `--drop` takes it."""
        names = sorted(self.blocks[: self.picked])
        return ",".join(map(str, names)) + "," * (len(names) == 1)  # or it would be a number of blocks


@dataclass(frozen=True)
class Heat:
    """A text coloured by a figure of its tokens, in one block after the other: `values[row][token]`."""

    name: str
    tokens: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading of its own."""

    id: str
    heading: str
    note: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    cuts: Sequence[Cut] = ()
    heats: Sequence[Heat] = ()
    saves: bool = False  # whether it shows all rows as tables, with buttons that save them


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that stands on a page."""

    title: str
    about: Sequence[str]
    verdict: Sequence[str] = ()
    doubts: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=list)
    rows: Datasets
    sources: Sequence[Mapping[str, Any]]  # the JSON forms of what is shown, to be saved


def html(page: Page) -> str:
    """The page as one HTML file, about a megabyte, which asks the network for nothing."""
    charts = [chart for section in page.sections for chart in section.charts]
    names = {id(chart): f"chart-{place}" for place, chart in enumerate(charts)}
    sections = [
        vars(section)
        | {
            "heats": [heat.name for heat in section.heats],
            "charts": [{"id": names[id(chart)], "caption": chart.caption} for chart in section.charts],
        }
        for section in page.sections
    ]
    heats = [vars(heat) for section in page.sections for heat in section.heats]
    cuts = [_ticked(cut) for section in page.sections for cut in section.cuts]
    data = {"columns": _columns(page.rows), "words": FIGURES, "heats": heats, "cuts": cuts, "sources": page.sources}
    return _template().render(
        vars(page) | {"sections": sections},
        version=version("linscore"),
        between=BLOCKS,
        saves={name: TABLES[name] for name in page.rows},
        data=_in_script(data),
        specs=_in_script({names[id(chart)]: chart.spec for chart in charts}),
        **_assets(),
    )


def _ticked(cut: Cut) -> dict[str, Any]:
    """What the script of the page needs of a cut."""
    return {"blocks": cut.blocks, "sums": cut.sums}


def _columns(rows: Datasets) -> dict[str, dict[str, list[Any]]]:
    """Each dataset by columns, which names every column once: a third of the size."""
    return {
        name: {key: [row.get(key) for row in found] for key in dict.fromkeys(key for row in found for key in row)}
        for name, found in rows.items()
    }


def _in_script(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("linscore.pages", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters["figure"] = figure
    return environment.get_template("page.html.j2")


@cache
def _assets() -> dict[str, str]:
    """Style and scripts; vl-convert holds Vega, Vega-Lite and what draws them in a browser."""
    import altair
    import vl_convert

    own = {name: (files("linscore.pages") / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    vega = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _vegalite(altair.SCHEMA_VERSION))
    return {**own, "vega": vega}


def _vegalite(schema: str) -> str:
    """What vl-convert calls the version of a schema: 6.4 for v6.4.1."""
    return ".".join(schema.removeprefix("v").split(".")[:2])


def figure(value: Any) -> str:
    """A cell of a table: five digits, a dash where there is nothing, and of text the spaces around it, too."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) else _seen(str(value))


def _seen(text: str) -> str:
    inner = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inner else len(text)
    return ("␣" * before + inner + "␣" * (len(text) - before - len(inner))).replace("\n", "⏎").replace("\t", "⇥")
