"""The charts of cut models: what they cost over what they save, and what training wins back."""

from __future__ import annotations

from linscore.pages import drawing as draw
from linscore.pages.cut_rows import KINDS, LINES
from linscore.pages.drawing import Spec
from linscore.pages.rows import Datasets

OVER = {"parameters_gone": "parameters", "cache_gone": "bytes a token in the cache"}
LOSSES = {"kl": "KL from the original, nats a token", "lm": "loss, nats a token", "hidden": "part of the states missed"}
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")


def costs(data: Datasets) -> Spec:
    """Nats a token that cuts add to the loss of the whole model, over the share of it that is gone."""
    import altair as alt

    rows = data["cuts"]
    over = {name: words for name, words in OVER.items() if draw.has(rows, name)}
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    which = draw.choice("over", over, "saved")
    base = (
        draw.chart("cuts")
        .transform_calculate(saved="datum[over]")
        .transform_filter("isValid(datum.saved)")
        .encode(
            x=alt.X("saved:Q", title="share of the whole model that is gone", axis=alt.Axis(format="~%", tickCount=8)),
            y=alt.Y("added:Q", title="nats a token added to the loss"),
            color=draw.colour(rows),
        )
    )
    tooltip = [
        "model:N",
        "kind:N",
        "went:N",
        alt.Tooltip("saved:Q", format=".1%"),
        alt.Tooltip("added:Q", format=".4f"),
    ]
    line = base.transform_filter(alt.FieldOneOfPredicate(field="kind", oneOf=[*LINES])).mark_line(strokeWidth=2)
    shapes = alt.Scale(domain=kinds, range=[SHAPES[KINDS.index(kind)] for kind in kinds])
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        shape=alt.Shape(
            "kind:N", title=None, scale=shapes, legend=alt.Legend(symbolFillColor="#888888", symbolSize=80)
        ),
        tooltip=tooltip,
    )
    dashes = alt.Scale(domain=[*LINES], range=[[1, 0], [2, 3], [7, 4], [4, 2]])
    drawn = line.encode(strokeDash=alt.StrokeDash("kind:N", scale=dashes, legend=None), order="step:Q")
    return draw.spec(alt.layer(drawn, points).add_params(which), "what cuts cost over what they save", height=320)


def training(data: Datasets) -> Spec:
    """The losses of a distillation over its steps, by the loss that is chosen."""
    import altair as alt

    rows = data["trained"]
    there = {name: words for name, words in LOSSES.items() if draw.has(rows, name)}
    which = draw.choice("loss", there, "loss")
    base = (
        draw.chart("trained")
        .transform_calculate(value="datum[loss]")
        .transform_filter("isValid(datum.value)")
        .encode(
            x=alt.X("step:Q", title="step of training", axis=alt.Axis(format="d", tickMinStep=1)),
            y=alt.Y(
                "value:Q", title=None, scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g", tickCount=5)
            ),
            color=draw.colour(rows),
            tooltip=["model:N", "step:Q", alt.Tooltip("value:Q", format=".4~g")],
        )
        .add_params(which)
    )
    return draw.spec(base.mark_line(strokeWidth=1.5, point=len(rows) < 50), "losses of a distillation over its steps")
