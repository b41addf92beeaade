"""`linscore report`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option("--html", is_flag=True, help="Write a page to look at instead of printing tables.")
@click.option("--out", metavar="FILE", help="The page [default: report.html in the first DIR].")
@plain
@as_json
def report(folders: tuple[str, ...], html: bool, out: str | None, as_json: bool) -> None:
    """Show what linscore has left in DIR, cut models too: tables here, or one HTML page, all over each other."""
    loading(*folders)
    from linscore.errors import LinscoreError
    from linscore.jobs.report import json_of, run_report, write_page
    from linscore.terminal import show

    if html:
        click.echo(f"page     {write_page(folders, out)}")
        return
    if out is not None:
        raise LinscoreError("`out` is where the page goes: give `html` with it")
    if as_json:
        click.echo(json_of(folders), nl=False)
        return
    for table in run_report(folders):
        show(table)
