"""Commands that train: train, finetune-delta."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.watching import labelled


@click.command()
@click.option("--config", required=True, metavar="FILE", help="A recipe in YAML, or 1M, 10M, 150M, 650M, embedded.")
@click.option("--out", required=True, metavar="DIR", help="Folder of the run, not there yet.")
@click.option("--text", metavar="PATH", help="Text to train on: a file, a folder, jsonl, json or parquet.")
@click.option("--dataset", metavar="NAME", help="A `datasets` name (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT).")
@click.option("--regularizer", metavar="KIND", help="Between consecutive states: none, mse or cosine.")
@click.option("--weight", type=float, metavar="λ", help="Of the regularizer.")
@click.option("--steps", type=int, metavar="N", help="Updates.")
@click.option("--seed", type=int, metavar="N", help="Of weights and order.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--device", default="auto", show_default=True, help="auto, or cpu where there is a GPU.")
def train(config: str, **options: Any) -> None:
    """Train a decoder from nothing, on Python's standard library unless a text is given.

    Options take the place of what the recipe says. Several processes: torchrun --nproc-per-node N --no-python linscore
    train …
    """
    from linscore.jobs.train import run_train
    from linscore.machine.allocator import keep_freed_memory

    keep_freed_memory()
    trained = run_train(config, **options)
    if trained is None:
        return
    last = trained.dynamics.scored[-1]
    scores = [last.mean(name) for name in ("linearity_heldout", "linearity_no_residual_heldout", "cosine")]
    shown = ["–" if score is None else f"{score:.4f}" for score in scores]
    click.echo(f"trained    {trained.parameters:,} parameters on {trained.tokens:,} tokens of {trained.text}")
    click.echo(f"loss       {trained.heldout_loss:.4f} nats per held-out token")
    click.echo(
        f"linearity  {shown[0]} held out, {shown[1]} without residual, cosine {shown[2]} (means over the blocks)"
    )
    click.echo(f"model      {trained.out}/model")
    click.echo(f"curve      {trained.out}/curve.png, {trained.out}/linearity/dynamics.png")
    click.echo(f"next       linscore score {trained.out}/model")


@click.command("finetune-delta")
@click.argument("model", default="embedded")
@labelled
@click.option("--task", default="classification", show_default=True, help="classification, or reward for pairs.")
@click.option("--chosen-field", default="chosen", show_default=True, help="Of a pair, the column of the better text.")
@click.option("--rejected-field", default="rejected", show_default=True, help="Of a pair, the column of the other.")
@click.option("--seeds", type=int, default=3, show_default=True, metavar="N", help="How many fine-tunings.")
@click.option("--epochs", type=int, default=3, show_default=True, metavar="N", help="Passes over the examples.")
@click.option("--batch-size", type=int, default=16, show_default=True, metavar="B", help="Examples in an update.")
@click.option("--learning-rate", type=float, default=2e-5, show_default=True, metavar="R", help="Its peak.")
@click.option("--longest", type=int, metavar="L", help="Tokens of a text, the last ones [the context, at most 512].")
@click.option("--score-text", metavar="PATH", help="Text to score on [the texts of the data].")
@click.option("--tokens", type=int, default=100_000, show_default=True, metavar="N", help="Scored at most.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--out", metavar="DIR", help="A new folder for finetune.json.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def finetune_delta(model: str, as_json: bool, **options: Any) -> None:
    """Score the blocks before and after fine-tuning a classification or reward head, over several seeds."""
    from linscore.finetuning.table import finetune_table
    from linscore.jobs.finetune_delta import run_finetune_delta
    from linscore.machine.allocator import keep_freed_memory
    from linscore.terminal import show

    keep_freed_memory()
    result = run_finetune_delta(model, **options)
    if as_json:
        click.echo(result.to_json(), nl=False)
    else:
        show(finetune_table(result))
