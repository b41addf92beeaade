"""What all charts share: axes, colours, dashes, and what pointing at something tells."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from linscore.pages.rows import Row
from linscore.pages.words import FIGURES

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]

# Of one model each; all with three to one at least against white and against the dark page.
COLOURS = ("#3b7dd8", "#c8641b", "#1d9a6c", "#a855c7", "#c0392b", "#7a8a1f", "#0e8ba8", "#d14d8b")
HEIGHT = 240
CROWDED = 40  # points of a line


def chart(name: str) -> alt.Chart:
    """A chart of one of the datasets of the page."""
    import altair as alt

    return alt.Chart(alt.NamedData(name=name))


def spec(chart: Any, description: str, height: int = HEIGHT) -> Spec:
    """As wide as the page has room for; the description is what a screen reader says."""
    spec: Spec = chart.properties(width="container", height=height, description=description).to_dict(validate=True)
    return spec


def size(rows: list[Row]) -> int:
    """Of a point, in pixels: of many blocks small ones, or dashed lines would look like solid ones."""
    return 28 if max(Counter(row["model"] for row in rows).values()) <= CROWDED else 7


def dots(rows: list[Row]) -> alt.OverlayMarkDef:
    """Points on a line, of a size that their number allows."""
    import altair as alt

    return alt.OverlayMarkDef(filled=True, size=size(rows))


def folded(base: alt.Chart, words: dict[str, str]) -> alt.Chart:
    """A row for each figure of a row: its `key`, its `value`, and `what` it is called."""
    return base.transform_fold([*words], as_=["key", "value"]).transform_calculate(what=f"{literal(words)}[datum.key]")


def has(rows: list[Row], name: str) -> bool:
    """Whether some row has that figure."""
    return any(row.get(name) is not None for row in rows)


def choice(name: str, labels: dict[str, str], words: str) -> alt.Parameter:
    """A list to choose from, the first of it to begin with: `labels` by the values that the parameter `name` takes."""
    import altair as alt

    options = [*labels]
    bind = alt.binding_select(options=options, labels=[*labels.values()], name=f"{words} ")
    return alt.param(name=name, value=options[0], bind=bind)


def literal(names: dict[str, str]) -> str:
    """A table of words, as an expression of Vega."""
    return "{" + ", ".join(f"'{key}': '{word}'" for key, word in names.items()) + "}"


def uneven(rows: list[Row]) -> bool:
    """Whether models of different depths are drawn together: they share the depth, not the index."""
    return len({row["block"] for row in rows if row["depth"] == 1}) > 1


def depth(rows: list[Row]) -> alt.X:
    """Blocks from left to right, by index, or by normalized depth where models differ in it."""
    import altair as alt

    if uneven(rows):
        return alt.X(
            "depth:Q",
            title="depth (0 the first block, 1 the last)",
            axis=alt.Axis(tickCount=5),
            scale=alt.Scale(domain=[0, 1]),
        )
    last = max(row["block"] for row in rows)
    axis = alt.Axis(format="d", values=list(range(0, last + 1, last // 12 + 1)))
    return alt.X("block:Q", title="block", axis=axis, scale=alt.Scale(domain=[0, max(last, 1)], nice=False))


def colour(rows: list[Row]) -> alt.Color:
    """One for each model, explained where there are several."""
    import altair as alt

    shown = legend(columns=1) if len({row["model"] for row in rows}) > 1 else None
    return alt.Color("model:N", title=None, scale=models(rows), legend=shown)


def models(rows: list[Row]) -> alt.Scale:
    """A colour of its own for each model, the same in every chart."""
    import altair as alt

    return alt.Scale(domain=list(dict.fromkeys(row["model"] for row in rows)), range=list(COLOURS))


def legend(**own: Any) -> alt.Legend:
    """Lines beside names."""
    import altair as alt

    return alt.Legend(symbolType="stroke", symbolSize=400, symbolOpacity=1, symbolFillColor="transparent", **own)


def dash(name: str, words: list[str]) -> alt.StrokeDash:
    """Solid, dashed, dotted, in this order."""
    import altair as alt

    scale = alt.Scale(domain=words, range=[[1, 0], [7, 4], [2, 3]][: len(words)])
    return alt.StrokeDash(name, title=None, scale=scale, legend=legend(symbolStrokeColor="#888888"))


def where() -> list[Any]:
    """Model and block, as pointing at one tells them."""
    import altair as alt

    return [alt.Tooltip("model:N"), alt.Tooltip("block:Q", format="d")]


def told(names: list[str]) -> list[Any]:
    """What pointing at a block says."""
    import altair as alt

    words = {name: FIGURES[name][0] if name in FIGURES else name for name in names}
    return [*where(), *(alt.Tooltip(f"{name}:Q", title=words[name], format=".5~g") for name in names)]


def ticks(rows: list[Row], name: str) -> alt.Axis:
    """About a dozen labels of blocks."""
    import altair as alt

    every = max(1, len({row[name] for row in rows}) // 12)
    values = sorted({row[name] for row in rows})[::every]
    return alt.Axis(values=values, labelAngle=0)
