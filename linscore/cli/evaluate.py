"""`linscore evaluate`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, takes
from linscore.options.cut import EvaluateOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@takes(
    TextOptions(),
    "text",
    only=("text", "dataset", "tokens", "batch_size"),
    changed={"batch_size": "Windows or answers in a batch [4,096 tokens; GPU 16,384]."},
)
@takes(EvaluateOptions(), "evaluating")
@takes(PlaceOptions(), "place")
@as_json
@plain
def evaluate(
    models: tuple[str, ...], text: TextOptions, evaluating: EvaluateOptions, place: PlaceOptions, as_json: bool
) -> None:
    """Compare models: perplexity and bits per byte of a text, tasks, parameters, tokens per second, memory."""
    loading(*models)
    from linscore.evaluation.result import to_json
    from linscore.evaluation.table import evaluation_table
    from linscore.jobs.evaluate import run_evaluate
    from linscore.terminal import show

    evaluations = run_evaluate(models, text=text, evaluating=evaluating, place=place)
    if as_json:
        click.echo(to_json(evaluations), nl=False)
    else:
        show(evaluation_table(evaluations))
