"""`linscore tokens`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, result_folder, takes
from linscore.embedded.shipped import EMBEDDED
from linscore.options.place import PlaceOptions
from linscore.options.score import ScoreOptions, SelectOptions
from linscore.options.text import TextOptions


@click.command()
@click.argument("model", default=EMBEDDED)
@takes(TextOptions(), "text")
@takes(ScoreOptions(), "scoring", only=("folds", "skip_first", "precision"))
@takes(SelectOptions(), "selected", only=("skip_special", "blocks"))
@result_folder("Where tokens.json goes; `linscore report DIR --html` draws it.")
@takes(PlaceOptions(), "place")
@as_json
@plain
def tokens(
    model: str,
    text: TextOptions,
    scoring: ScoreOptions,
    selected: SelectOptions,
    place: PlaceOptions,
    out: str | None,
    as_json: bool,
) -> None:
    """Show which tokens a block treats as no affine map does: errors of single tokens, the worst in their context.

    Every token is measured under the map that was fitted on the other folds, in a second pass over the text.
    """
    loading(model)
    from linscore.jobs.tokens import run_tokens
    from linscore.terminal import show
    from linscore.token_errors.table import token_table

    found, path = run_tokens(model, text=text, scoring=scoring, selected=selected, place=place, out=out)
    if as_json:
        click.echo(found.to_json(), nl=False)
        return
    show(token_table(found))
    if path is not None:
        click.echo(f"tokens   {path}")
