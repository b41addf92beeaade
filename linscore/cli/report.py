"""`linscore report`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option("--html", is_flag=True, help="Write a page to look at instead of printing tables.")
@click.option("--out", metavar="FILE", help="The page [default: report.html in the first DIR].")
def report(folders: tuple[str, ...], html: bool, out: str | None) -> None:
    """Show what `score` and `dynamics` left in DIR: tables here, or one HTML page, all of them over each other."""
    loading(*folders)
    from linscore.errors import LinscoreError
    from linscore.jobs.report import run_report, write_page
    from linscore.terminal import show

    if html:
        click.echo(f"page     {write_page(folders, out)}")
        return
    if out is not None:
        raise LinscoreError("`out` is where the page goes: give `html` with it")
    for table in run_report(folders):
        show(table)
