"""`linscore distil`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.follow_up import TEXT, TRUST, next_command
from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, figures, new_folder, plain, resume, takes
from linscore.options.training import DISTIL_PLACE, DISTIL_TEXT, DISTIL_TRAINING, DistilOptions


@click.command()
@click.argument("student")
@takes(
    DISTIL_TEXT,
    "text",
    only=("text", "dataset", "seq_len", "batch_size"),
    changed={
        "seq_len": "Tokens in a sequence [default: the model's context, ≤ 512].",
        "batch_size": "Sequences in a batch.",
    },
)
@takes(DistilOptions(), "towards")
@takes(
    DISTIL_TRAINING,
    "training",
    only=("steps", "learning_rate", "save_every"),
    changed={"learning_rate": "Its peak [default: 1e-3; all weights 3e-4]."},
)
@resume
@new_folder
@takes(DISTIL_PLACE, "place", changed={"dtype": "The teacher's; the student trains in float32."})
@figures
@as_json
@plain
def distil(student: str, as_json: bool, **asked: Any) -> None:
    """Train STUDENT, saved by prune, linearize or fuse, to do what its original does.

    The states behind each replacement are compared with those behind the blocks it stands for, and the logits.
    """
    loading(student)
    from linscore.jobs.distil import run_distil

    done = run_distil(student, **asked)
    if done is None:
        return
    if as_json:
        click.echo(done.record.to_json(), nl=False)
        return
    about = done.record.distilled or {}
    click.echo(f"trained  {about['trained_parameters']:,} parameters on {about['tokens']:,} tokens of {about['text']}")
    click.echo(f"loss     {about['before']['loss']:.4f} → {about['after']['loss']:.4f} on its first batches")
    click.echo(f"model    {done.out}")
    click.echo(
        f"next     {next_command('evaluate', about['teacher'], student, done.out, keep=(*TEXT, 'device', TRUST))}"
    )
