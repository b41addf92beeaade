"""What is shown of reports and series, section by section, in the order in which one reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from linscore.pages import charts, cut_charts, state_charts
from linscore.pages.page import Chart, Column, Heat, Section, Table
from linscore.pages.rows import Datasets

SHOWN = 3  # tokens of each block that are named
TELLS = "Solid lines are held out: the map is fitted on some of the texts, the error measured on the others."


def report_sections(data: Datasets) -> Iterator[Section]:
    """What is drawn of the blocks of reports."""
    yield Section(
        "scores",
        "How linear each block is",
        f"{TELLS} Bands: spread over the folds; dashed: in-sample.",
        [
            Chart(
                charts.scores(data, "linearity"), "Of what leaves the block, explained by an affine map of what enters."
            ),
            Chart(charts.scores(data, "linearity_no_residual"), "The same for what the block adds, δ = y − x."),
        ],
    )
    yield Section(
        "any", "Any other figure", "Choose one; pointing at a block tells its value.", [Chart(charts.chosen(data))]
    )
    drawn = [
        (charts.lines(data, ("norm_x", "norm_delta"), "norm"), "Length of what enters, and of what is added."),
        (charts.lines(data, ("delta_ratio",), "‖δ‖/‖x‖"), "How much the block moves the state."),
        (charts.lines(data, ("effective_rank",), "effective rank"), "How many directions the states fill."),
        (charts.lines(data, ("anisotropy",), "anisotropy"), "Share of the largest direction."),
    ]
    shape = [Chart(spec, caption) for spec, caption in drawn if spec is not None]
    yield Section("states", "What the states look like", "Means over tokens, of what enters the block.", shape)
    if (of_parts := charts.parts(data)) is not None:
        yield Section("parts", "Attention and MLP", "Each against the state that it reads.", [Chart(of_parts)])
    yield from _spans(data)
    if (along := charts.looks(data)) is not None:
        yield Section(
            "text", "How much text is enough", "Once the lines are flat, more text changes little.", [Chart(along)]
        )


def cut_sections(data: Datasets, left: Table) -> Iterator[Section]:
    """What is drawn of cut models; `left` is what each has left."""
    drawn = []
    if data.get("cuts"):
        drawn.append(
            Chart(
                cut_charts.costs(data),
                "Of prune, as blocks were chosen, each taken to hold the same; of compress, as it searched, and on "
                "text that neither chose nor fitted; of distil, the distance from the original on its own text.",
            )
        )
    if data.get("trained"):
        drawn.append(Chart(cut_charts.training(data), "Each step's batch, before its update."))
    note = "Nats a token against the whole model on the same text: lower is better, further right is smaller."
    yield Section("cuts", "What cutting costs", note, drawn, [left])


def series_sections(data: Datasets) -> Iterator[Section]:
    """What is drawn of series of checkpoints."""
    drawn = [
        Chart(charts.over_steps(data, score), "Thick: mean over the blocks; thin: each block.")
        for score in charts.SCORES
    ]
    drawn.append(Chart(charts.at_step(data), "Every block at one checkpoint: move the slider."))
    yield Section(
        "dynamics", "While it learned", "Held-out scores of a series of checkpoints on the same tokens.", drawn
    )


def token_sections(data: Datasets, texts: Sequence[Heat]) -> Iterator[Section]:
    """What is drawn of the errors of single tokens."""
    drawn = [
        Chart(state_charts.knowing(data), "What the token alone tells of a block's update, and what the state does."),
        Chart(state_charts.histogram(), "1 is what the block adds to a token on average."),
    ]
    note = "What the held-out map of a block misses of single tokens: the higher, the less linear the block is there."
    yield Section("tokens", "Token by token", note, drawn, [_worst(data)], heats=texts)


def _worst(data: Datasets) -> Table:
    """The worst tokens of each block in their context."""
    rows, seen = [], Counter[tuple[str, int]]()
    for row in data.get("worst", []):
        seen[row["model"], row["block"]] += 1
        if seen[row["model"], row["block"]] <= SHOWN:
            rows.append([row["block"], row["share"], row["before"], row["token"], row["after"]])
    columns = [
        Column("block"),
        Column("share"),
        Column("before"),
        Column("token", left=True),
        Column("behind", left=True),
    ]
    return Table(f"The {SHOWN} tokens that each block's map misses the most", columns, rows)


def lens_sections(data: Datasets, grids: Sequence[Table]) -> Iterator[Section]:
    """What is drawn of states at every depth; `grids` are the predictions of each model."""
    drawn = [Chart(state_charts.dimension(data), "TwoNN: how many dimensions the states fill near each other.")]
    if any(row["loss"] is not None for row in data["depths"]):
        drawn.insert(0, Chart(state_charts.read_off(data), "The next token, read off each depth by the model's head."))
    models = list(dict.fromkeys(row["model"] for row in data["depths"]))
    drawn += [Chart(state_charts.alike(model), model if len(models) > 1 else "Any two depths.") for model in models]
    yield Section("depths", "What states know at every depth", "A sample of tokens, depth by depth.", drawn, grids)


def number_section() -> Section:
    """Every number, as tables and to save."""
    note = "Open a table, or save it; the numbers are those of report.json, and what is not defined is a dash."
    return Section("numbers", "Every number", note, saves=True)


def _spans(data: Datasets) -> Iterator[Section]:
    """A map for each model of which spans were scored."""
    rows, name = data.get("spans", []), "angular_distance"
    models = dict.fromkeys(row["model"] for row in rows)
    drawn = []
    for model in models:
        own = [row for row in rows if row["model"] == model]
        spec = charts.span_map(own, name) | {"transform": [{"filter": {"field": "model", "equal": model}}]}
        drawn.append(Chart(spec, model if len(models) > 1 else ""))
    if drawn:
        note = "Angle between what enters a span and what leaves it: small, and the span does little."
        yield Section("spans", "Spans of blocks", note, drawn)
