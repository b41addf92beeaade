"""`linscore finetune-delta`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, result_folder, takes
from linscore.embedded.shipped import EMBEDDED
from linscore.options.place import PlaceOptions
from linscore.options.text import LabelledOptions
from linscore.options.training import FINETUNE_TEXT, FinetuneOptions, TrainingOptions


@click.command("finetune-delta")
@click.argument("model", default=EMBEDDED)
@takes(LabelledOptions(), "labelled")
@takes(FinetuneOptions(), "finetuning")
@takes(
    TrainingOptions(),
    "training",
    only=("learning_rate",),
    changed={"learning_rate": "Its peak [default: 0.08 / width of the states, 2e-5 at 4,096]."},
)
@takes(
    FINETUNE_TEXT,
    "scored",
    only=("tokens", "batch_size"),
    changed={"tokens": "Scored at most.", "batch_size": "Examples in an update."},
)
@takes(PlaceOptions(), "place", only=("device", "trust_remote_code"))
@result_folder("A new folder for finetune.json.", new=True)
@as_json
@plain
def finetune_delta(model: str, as_json: bool, **asked: Any) -> None:
    """Score the blocks before and after fine-tuning a classification or reward head, over several seeds."""
    loading(model)
    from linscore.finetuning.table import finetune_table
    from linscore.jobs.finetune_delta import run_finetune_delta
    from linscore.machine.allocator import keep_freed_memory
    from linscore.terminal import show

    keep_freed_memory()
    result = run_finetune_delta(model, **asked)
    if result is None:
        return
    if as_json:
        click.echo(result.to_json(), nl=False)
        return
    show(finetune_table(result))
    if asked["out"] is not None:
        click.echo(f"result   {asked['out']}/finetune.json")
