"""`linscore dynamics`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, figures, plain, result_folder, takes
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--revisions", metavar="LIST", help="Of one Hub name: branches or tags such as step1000,step4000.")
@takes(TextOptions(), "text")
@result_folder("Where the series goes; repeat the command to go on with it.", required=True)
@takes(PlaceOptions(), "place")
@figures
@as_json
@plain
def dynamics(
    checkpoints: tuple[str, ...],
    revisions: str | None,
    text: TextOptions,
    place: PlaceOptions,
    out: str,
    as_json: bool,
) -> None:
    """Score a series of checkpoints on the same tokens: how linearity moves while a model learns.

    A folder of checkpoints, as transformers' Trainer leaves it, stands for all of them.
    """
    loading(*checkpoints)
    from linscore.dynamics.table import dynamics_table
    from linscore.jobs.dynamics import run_dynamics
    from linscore.pictures import file_of
    from linscore.terminal import show

    series = run_dynamics(checkpoints, revisions=revisions, text=text, place=place, out=out)
    if series is None:
        return
    if as_json:
        click.echo(series.to_json(), nl=False)
        return
    show(dynamics_table(series))
    click.echo(f"series   {out}/dynamics.json\npicture  {out}/{file_of('dynamics')}")
