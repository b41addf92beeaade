"""Commands that follow training and read what a model knows: dynamics, probe."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.surgery import options, place, text


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--revisions", metavar="LIST", help="Of one Hub name: branches or tags such as step1000,step4000.")
@text
@click.option("--seq-len", type=int, metavar="L", help="Tokens in a sequence [default: the models' context, ≤ 2048].")
@click.option("--batch-size", type=int, metavar="B", help="Sequences in a batch [default: 4,096 tokens; GPU 16,384].")
@click.option("--out", required=True, metavar="DIR", help="Where the series goes; repeat the command to go on with it.")
@place
@click.option("--json", "as_json", is_flag=True, help="Print the series as JSON instead of the table.")
def dynamics(checkpoints: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Score a series of checkpoints on the same tokens: how linearity moves while a model learns.

    A folder of checkpoints, as transformers' Trainer leaves it, stands for all of them.
    """
    from linscore.dynamics.table import dynamics_table
    from linscore.jobs.dynamics import run_dynamics
    from linscore.terminal import show

    series = run_dynamics(checkpoints, **given)
    if as_json:
        click.echo(series.to_json(), nl=False)
        return
    show(dynamics_table(series))
    click.echo(f"series   {given['out']}/dynamics.json\npicture  {given['out']}/dynamics.png")


labelled = options(
    click.option("--data", metavar="FILE", help="Labelled texts: jsonl, json, csv or parquet."),
    click.option("--dataset", metavar="NAME", help="A `datasets` name (NAME:CONFIG:SPLIT) instead."),
    click.option("--text-field", default="text", show_default=True, help="Column of the text; several, joined: a,b."),
    click.option("--label-field", default="label", show_default=True, help="Column of the label."),
)


@click.command()
@click.argument("model", default="embedded")
@labelled
@click.option("--pool", default="last", show_default=True, help="last: the last token's state; mean: of all tokens.")
@click.option("--batch-size", type=int, metavar="B", help="Texts in a batch.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the cross-validation folds.")
@click.option("--out", metavar="DIR", help="A new folder for probe.json and probe.png.")
@place
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def probe(model: str, as_json: bool, **given: Any) -> None:
    """Read a label off every layer's states with a logistic regression, cross-validated."""
    from linscore.jobs.probe import run_probe
    from linscore.probing.table import probe_table
    from linscore.terminal import show

    probing = run_probe(model, **given)
    if as_json:
        click.echo(probing.to_json(), nl=False)
    else:
        show(probe_table(probing))
