"""Commands that train: train."""

from __future__ import annotations

from typing import Any

import click


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
    from linscore.allocator import keep_freed_memory
    from linscore.jobs.train import run_train

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
