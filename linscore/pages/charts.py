"""The charts of a page, as Vega-Lite specifications; their data have names and are handed over by the page."""

from __future__ import annotations

from linscore.pages import drawing as draw
from linscore.pages.drawing import Spec
from linscore.pages.rows import Datasets, Row
from linscore.pages.words import FIGURES, known

SCORES = {"linearity": "linearity", "linearity_no_residual": "linearity without residual"}
KINDS = {"_heldout": "held out", "": "in-sample", "_heldout_without_heavy": "held out, no sinks"}
MANY = 30  # the largest is so many times the smallest: on a linear axis all but it would be a flat line


def scores(data: Datasets, score: str) -> Spec:
    """A score of every block: held out with its spread as a band, in-sample dashed, without sinks dotted."""
    import altair as alt

    rows = data["blocks"]
    kinds = {f"{score}{end}": kind for end, kind in KINDS.items() if draw.has(rows, f"{score}{end}")}
    base = draw.chart("blocks").encode(x=draw.depth(rows))
    lines = draw.folded(base.encode(color=draw.colour(rows)), kinds)
    y = alt.Y("value:Q", title=SCORES[score], scale=alt.Scale(zero=False))
    drawn = [
        lines.mark_line(point=False, strokeWidth=2).encode(y=y, strokeDash=draw.dash("what:N", list(kinds.values()))),
        lines.mark_point(filled=True, size=draw.size(rows), opacity=1).encode(y=y, tooltip=draw.told(list(kinds))),
    ]
    spread = f"{score}_heldout_spread"
    if draw.has(rows, spread):
        band = base.transform_calculate(
            low=f"datum.{score}_heldout - datum.{spread}", high=f"datum.{score}_heldout + datum.{spread}"
        )
        y_low, fill = alt.Y("low:Q"), alt.Fill("model:N", scale=draw.models(rows), legend=alt.Undefined)
        drawn.insert(0, band.mark_area(fillOpacity=0.2, opacity=1).encode(y=y_low, y2="high:Q", fill=fill))
    return draw.spec(alt.layer(*drawn), f"{SCORES[score]} of each block, {', '.join(kinds.values())}")


def chosen(data: Datasets) -> Spec:
    """Any figure of every block: one after the other, by a list to choose from."""
    import altair as alt

    rows = data["blocks"]
    there = known(rows)
    which = draw.choice("figure", {key: f"{name}: {meaning}" for key, (name, meaning) in there.items()}, "figure")
    base = (
        draw.chart("blocks")
        .transform_calculate(value="datum[figure]")
        .transform_filter("isValid(datum.value)")
        .encode(
            x=draw.depth(rows),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=draw.colour(rows),
            tooltip=[*draw.where(), alt.Tooltip("value:Q", format=".6~g")],
        )
        .add_params(which)
    )
    return draw.spec(base.mark_line(point=draw.dots(rows), strokeWidth=2), "one figure of each block")


def lines(data: Datasets, names: tuple[str, ...], title: str) -> Spec | None:
    """Some figures of every block, on a logarithmic axis where they need it; None where no block has one."""
    import altair as alt

    rows = data["blocks"]
    there = [name for name in names if draw.has(rows, name)]
    if not there:
        return None
    values = [row[name] for row in rows for name in there if row.get(name) is not None]
    scale, axis = alt.Scale(), alt.Axis()
    if min(values) > 0 and max(values) > MANY * min(values):
        scale, axis = alt.Scale(type="log"), alt.Axis(tickCount=4, format="~g")
    base = draw.folded(draw.chart("blocks"), {name: FIGURES[name][0] for name in there}).encode(
        x=draw.depth(rows),
        y=alt.Y("value:Q", title=title, scale=scale, axis=axis),
        color=draw.colour(rows),
        tooltip=draw.told(there),
    )
    if len(there) > 1:
        base = base.encode(strokeDash=draw.dash("what:N", [FIGURES[name][0] for name in there]))
    return draw.spec(base.mark_line(point=draw.dots(rows), strokeWidth=2), f"{title} of each block")


def parts(data: Datasets) -> Spec | None:
    """The score without residual of attention and MLP of every block, held out where it is."""
    import altair as alt

    rows = data.get("parts", [])
    name = next(
        (key for key in ("linearity_no_residual_heldout", "linearity_no_residual") if draw.has(rows, key)), None
    )
    if name is None:
        return None
    base = draw.chart("parts").encode(
        x=draw.depth(rows),
        y=alt.Y(f"{name}:Q", title=FIGURES[name][0], scale=alt.Scale(zero=False)),
        color=draw.colour(data["blocks"]),
        strokeDash=draw.dash("part:N", ["attention", "mlp"]),
        tooltip=[*draw.where(), "part:N", alt.Tooltip(f"{name}:Q", format=".5f")],
    )
    return draw.spec(base.mark_line(point=draw.dots(rows)), f"{FIGURES[name][0]} of attention and MLP")


def looks(data: Datasets) -> Spec | None:
    """The mean held-out scores over the tokens read so far: how much text is enough."""
    import altair as alt

    rows = data.get("looks", [])
    if len({row["tokens"] for row in rows}) < 2:
        return None
    names = {f"{score}_heldout": words for score, words in SCORES.items()}
    base = (
        draw.folded(draw.chart("looks"), names)
        .transform_aggregate(mean="mean(value)", groupby=["model", "tokens", "what"])
        .encode(
            x=alt.X(
                "tokens:Q",
                title="tokens read",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(format="~s", tickCount=5),
            ),
            y=alt.Y("mean:Q", title="mean over blocks, held out", scale=alt.Scale(zero=False)),
            color=draw.colour(data["blocks"]),
            strokeDash=draw.dash("what:N", list(names.values())),
            tooltip=["model:N", "what:N", alt.Tooltip("tokens:Q", format=","), alt.Tooltip("mean:Q", format=".5f")],
        )
    )
    return draw.spec(base.mark_line(point=alt.OverlayMarkDef(filled=True, size=20)), "held-out scores over tokens read")


def span_map(rows: list[Row], figure: str) -> Spec:
    """A figure of every span of blocks, by its first and last: the darker the less the span turns the state."""
    import altair as alt

    base = draw.chart("spans").encode(
        x=alt.X("last:O", title="last block", axis=draw.ticks(rows, "last")),
        y=alt.Y("first:O", title="first block", axis=draw.ticks(rows, "first")),
        color=alt.Color(f"{figure}:Q", title=FIGURES[figure][0], scale=alt.Scale(scheme="viridis", reverse=True)),
        tooltip=["model:N", "first:Q", "last:Q", alt.Tooltip(f"{figure}:Q", format=".5f")],
    )
    return draw.spec(base.mark_rect(), f"{FIGURES[figure][0]} of spans of blocks", height=320)


def over_steps(data: Datasets, score: str) -> Spec:
    """A held-out score over the steps of training: its mean over the blocks, and one thin line for each block."""
    import altair as alt

    name = f"{score}_heldout"
    base = draw.chart("steps").encode(x=alt.X("step:Q", title="training step"))
    each = base.mark_line(opacity=0.35, strokeWidth=1).encode(
        y=alt.Y(f"{name}:Q", title=f"{SCORES[score]}, held out", scale=alt.Scale(zero=False)),
        color=draw.colour(data["steps"]),
        detail="block:N",
        tooltip=["model:N", "step:Q", "block:Q", alt.Tooltip(f"{name}:Q", format=".5f")],
    )
    mean = base.mark_line(strokeWidth=3, point=alt.OverlayMarkDef(filled=True, size=30)).encode(
        y=f"mean({name}):Q", color=draw.colour(data["steps"])
    )
    return draw.spec(alt.layer(each, mean), f"{SCORES[score]} over training steps")


def at_step(data: Datasets) -> Spec:
    """The held-out scores of every block at one step, by a slider over the checkpoints."""
    import altair as alt

    rows = data["steps"]
    steps = sorted({row["step"] for row in rows})
    slider = alt.binding_range(min=0, max=len(steps) - 1, step=1, name="checkpoint ")
    which = alt.param(name="checkpoint", value=len(steps) - 1, bind=slider)
    names = {f"{score}_heldout": words for score, words in SCORES.items()}
    base = (
        draw.folded(draw.chart("steps").transform_filter(f"datum.step == {steps}[checkpoint]"), names)
        .encode(
            x=draw.depth(rows),
            y=alt.Y("value:Q", title="held out", scale=alt.Scale(domain=[0, 1])),
            color=draw.colour(rows),
            strokeDash=draw.dash("what:N", list(names.values())),
            tooltip=[
                "model:N",
                "step:Q",
                alt.Tooltip("block:Q", format="d"),
                "what:N",
                alt.Tooltip("value:Q", format=".5f"),
            ],
        )
        .add_params(which)
    )
    drawn = base.mark_line(point=draw.dots(rows))
    told = alt.Title(alt.expr(f"'step ' + format({steps}[checkpoint], ',')"), anchor="start", fontSize=13)
    return draw.spec(drawn.properties(title=told), "held-out scores at one training step")
