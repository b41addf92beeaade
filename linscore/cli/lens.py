"""`linscore lens`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, result_folder, takes
from linscore.embedded.shipped import EMBEDDED
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions


@click.command()
@click.argument("model", default=EMBEDDED)
@takes(TextOptions(), "text", changed={"tokens": "How many tokens are looked at [2,048]."})
@result_folder("Where lens.json goes; `linscore report DIR --html` draws it.")
@takes(PlaceOptions(), "place")
@as_json
@plain
def lens(model: str, text: TextOptions, place: PlaceOptions, out: str | None, as_json: bool) -> None:
    """Look at the states of a sample of tokens at every depth: logit lens, intrinsic dimension, similarity.

    The next token is read off every depth by the final norm and the head, and without the norm.
    """
    loading(model)
    from linscore.jobs.lens import run_lens
    from linscore.lens.table import lens_table
    from linscore.terminal import show

    found, path = run_lens(model, text=text, place=place, out=out)
    if as_json:
        click.echo(found.to_json(), nl=False)
        return
    show(lens_table(found))
    if path is not None:
        click.echo(f"lens     {path}")
