"""`linscore compress`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.cut import say
from linscore.cli.follow_up import PLACE, TEXT, next_command
from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, resume, run_folder, takes
from linscore.options.cut import CompressOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions


@click.command()
@click.argument("model")
@takes(CompressOptions(), "wanted")
@takes(TextOptions(), "text")
@resume
@run_folder
@takes(PlaceOptions(), "place")
@as_json
@plain
def compress(model: str, as_json: bool, **asked: Any) -> None:
    """Make MODEL smaller under a budget: what costs least for what it saves goes, and the rest is healed.

    Attention, MLP and whole blocks are dropped or become maps, chosen by the loss that is measured with them.
    """
    loading(model)
    from linscore.compression.table import steps_table
    from linscore.jobs.compress import run_compress
    from linscore.terminal import show

    done = run_compress(model, **asked, progress=say)
    if as_json:
        click.echo(done.record.to_json(), nl=False)
        return
    show(steps_table(done.result.steps))
    click.echo(done.record.summary())
    losses = done.result.losses
    click.echo(
        f"loss     {losses['whole']:.4f} → {losses['cut']:.4f} cut → {losses['healed']:.4f} healed, on "
        f"{done.result.tokens['reported']:,} tokens that neither chose nor fitted"
    )
    click.echo(f"model    {done.out}")
    click.echo(f"next     {next_command('evaluate', done.record.model, done.out, keep=(*TEXT, *PLACE))}")
