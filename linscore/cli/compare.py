"""`linscore compare`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="DIR DIR...")
@click.option(
    "--figure", metavar="NAME", help="A figure of the report [the held-out scores, with and without residual]."
)
@as_json
@plain
def compare(models: tuple[str, ...], figure: str | None, as_json: bool) -> None:
    """Compare scored models with the first, block by block: what differs by more than folds or seeds do.

    DIR is what `linscore score` wrote; of several seeds of one model DIR,DIR,…. Depths may differ: blocks are compared
    at the same share of the depth.
    """
    loading(*models)
    from linscore.jobs.compare import run_compare
    from linscore.scoring.comparison import to_json
    from linscore.scoring.comparison_table import comparison_table
    from linscore.terminal import show

    found = run_compare(models, figure)
    if as_json:
        click.echo(to_json(found), nl=False)
    else:
        show(comparison_table(found))
