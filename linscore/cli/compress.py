"""`linscore compress`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.cut import say
from linscore.cli.follow_up import PLACE, TEXT, next_command
from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, resume, run_folder, takes
from linscore.options.cut import CompressOptions, CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions

CHOSEN = {
    "by": "Choose by a figure, such as expected_loss: no trial is run [measured loss].",
    "moments": "Choose by figures of what `linscore score --sub-blocks --out DIR` wrote for MODEL: needs no text.",
}


@click.command()
@click.argument("model")
@takes(CompressOptions(), "wanted")
@takes(CutOptions(), "cut", only=("by", "moments"), changed=CHOSEN)
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
    result = done.result
    show(steps_table(result.steps, result.by))
    click.echo(done.record.summary())
    if result.by is not None:
        click.echo(f"chosen   by {result.by} alone: no loss was measured for it")
    if result.losses:
        whole, cut, healed = (f"{result.losses[name]:.4f}" for name in ("whole", "cut", "healed"))
        told = f"{whole} → {cut} cut → {healed} healed ({result.healed})"
        click.echo(f"loss     {told}, on {result.tokens['reported']:,} tokens that neither chose nor fitted")
    if result.latency is not None:
        whole, summed, cut = (f"{1000 * result.latency[name]:.3g} ms" for name in ("whole", "summed", "cut"))
        click.echo(f"latency  {whole} → {cut} ({summed} by the sum of what units save): {result.budget}")
    click.echo(f"model    {done.out}")
    click.echo(f"next     {next_command('evaluate', done.record.model, done.out, keep=(*TEXT, *PLACE))}")
