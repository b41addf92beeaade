"""The charts of single tokens, and of states at every depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linscore.pages import drawing as draw
from linscore.pages.drawing import Spec
from linscore.pages.rows import Datasets
from linscore.pages.words import FIGURES

if TYPE_CHECKING:
    import altair as alt

SIMILAR = ("cka_debiased", "cka", "angular_distance")


def histogram() -> Spec:
    """How the tokens' shares are spread, a line for each block."""
    import altair as alt

    base = draw.chart("shares").encode(
        x=alt.X("log_share:Q", title="log₁₀ of a token's share of what is missed"),
        y=alt.Y("part:Q", title="part of the tokens", axis=alt.Axis(format="%")),
        color=alt.Color("block:Q", title="block", scale=alt.Scale(range=["#7b68ee", "#e8a33d"])),
        detail="model:N",
        tooltip=[*draw.where(), alt.Tooltip("log_share:Q", format=".2f"), alt.Tooltip("part:Q", format=".2%")],
    )
    return draw.spec(base.mark_line(strokeWidth=1.5), "how shares of single tokens are spread in each block")


def knowing(data: Datasets) -> Spec:
    """What of each block's update the token alone tells, and what the state does."""
    import altair as alt

    rows, names = data["knowing"], ("linear", "explained_by_token", "tokenwise")
    base = draw.folded(draw.chart("knowing"), {name: FIGURES[name][0] for name in names}).encode(
        x=draw.depth(rows),
        y=alt.Y("value:Q", title="part of what the block adds, held out"),
        color=draw.colour(rows),
        strokeDash=draw.dash("what:N", [FIGURES[name][0] for name in names]),
        tooltip=draw.told([*names, "unexplained"]),
    )
    return draw.spec(base.mark_line(point=draw.dots(rows)), "what the token and the state tell")


def read_off(data: Datasets) -> Spec:
    """What the next token costs at every depth, with and without the final norm."""
    import altair as alt

    rows, names = data["depths"], ("loss", "loss_without_norm")
    base = draw.folded(draw.chart("depths"), {name: FIGURES[name][0] for name in names}).encode(
        x=_depths(),
        y=alt.Y("value:Q", title="nats a token"),
        color=draw.colour(rows),
        strokeDash=draw.dash("what:N", [FIGURES[name][0] for name in names]),
        tooltip=_told([*names, "agrees"]),
    )
    return draw.spec(base.mark_line(point=draw.dots(rows)), "logit lens: loss at every depth")


def dimension(data: Datasets) -> Spec:
    """The intrinsic dimension of the states at every depth, its standard error as a band."""
    import altair as alt

    rows = data["depths"]
    base = draw.chart("depths").encode(x=_depths())
    band = base.transform_calculate(
        low="datum.dimension - datum.dimension_error", high="datum.dimension + datum.dimension_error"
    ).mark_area(fillOpacity=0.2, opacity=1)
    band = band.encode(y=alt.Y("low:Q"), y2="high:Q", fill=alt.Fill("model:N", scale=draw.models(rows)))
    line = base.mark_line(point=draw.dots(rows)).encode(
        y=alt.Y("dimension:Q", title=FIGURES["dimension"][0]), color=draw.colour(rows), tooltip=_told(["dimension"])
    )
    return draw.spec(alt.layer(band, line), "intrinsic dimension of states at every depth")


def alike(model: str) -> Spec:
    """How alike the states of a model are at any two depths, by the measure that is chosen."""
    import altair as alt

    which = draw.choice("measure", {name: FIGURES[name][0] for name in SIMILAR}, "measure")
    base = (
        draw.chart("pairs")
        .transform_filter(alt.FieldEqualPredicate(field="model", equal=model))
        .transform_calculate(value="datum[measure]")
        .encode(
            x=alt.X("second:O", title="depth", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("first:O", title="depth", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color("value:Q", title=None, scale=alt.Scale(scheme="viridis")),
            tooltip=["first:Q", "second:Q", *(alt.Tooltip(f"{name}:Q", format=".4f") for name in SIMILAR)],
        )
        .add_params(which)
    )
    return draw.spec(base.mark_rect(), f"similarity of depths of {model}", height=360)


def _depths() -> alt.X:
    import altair as alt

    return alt.X("depth:Q", title="depth: 0 what enters block 0", axis=alt.Axis(format="d", tickMinStep=1))


def _told(names: list[str]) -> list[Any]:
    import altair as alt

    return ["model:N", "depth:Q", *(alt.Tooltip(f"{name}:Q", title=FIGURES[name][0], format=".5~g") for name in names)]
