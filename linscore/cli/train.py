"""`linscore train`."""

from __future__ import annotations

import json
from typing import Any

import click

from linscore.cli.follow_up import TEXT, TRUST, next_command
from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, figures, plain, resume, run_folder, takes
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.options.training import RegularizerOptions, TrainingOptions


@click.command()
@click.option("--config", required=True, metavar="FILE", help="A recipe in YAML, or 1M, 10M, 150M, 650M, embedded.")
@run_folder
@takes(TextOptions(), "text", only=("text", "dataset"))
@takes(RegularizerOptions(), "regularizing")
@takes(TrainingOptions(), "training", only=("steps", "seed"))
@resume
@takes(PlaceOptions(), "place", only=("device",), changed={"device": "auto, or cpu where there is a GPU."})
@figures
@as_json
@plain
def train(config: str, as_json: bool, **asked: Any) -> None:
    """Train a decoder from nothing, on Python's standard library unless a text is given.

    Options take the place of what the recipe says. Several processes: torchrun --nproc-per-node N --no-python linscore
    train …
    """
    loading(config)
    from linscore.jobs.train import run_train
    from linscore.machine.allocator import keep_freed_memory
    from linscore.pictures import file_of
    from linscore.terminal import number

    keep_freed_memory()
    trained = run_train(config, **asked)
    if trained is None:
        return
    last = trained.dynamics.scored[-1]
    names = ("linearity_heldout", "linearity_no_residual_heldout", "cosine")
    means = {name: last.mean(name) for name in names}
    if as_json:
        found = {name: getattr(trained, name) for name in ("text", "parameters", "tokens", "heldout_loss")}
        click.echo(json.dumps({"out": str(trained.out)} | found | means, indent=2))
        return
    score, without, cosine = map(number, means.values())
    click.echo(f"trained    {trained.parameters:,} parameters on {trained.tokens:,} tokens of {trained.text}")
    click.echo(f"loss       {trained.heldout_loss:.4f} nats per held-out token")
    click.echo(f"linearity  {score} held out, {without} without residual, cosine {cosine} (means over the blocks)")
    click.echo(f"model      {trained.out}/model")
    click.echo(f"curve      {trained.out}/{file_of('curve')}, {trained.out}/linearity/{file_of('dynamics')}")
    click.echo(f"next       {next_command('score', f'{trained.out}/model', keep=(*TEXT, 'device', TRUST))}")
