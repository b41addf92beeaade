"""`linscore judge`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, takes
from linscore.options.judge import JUDGE_SAMPLING, JudgeOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.options.training import TrainingOptions


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@takes(TextOptions(), "text", only=("text", "dataset"))
@takes(JudgeOptions(), "judging")
@takes(JUDGE_SAMPLING, "sampling", only=("seed",), changed={"seed": "Of the sampling."})
@takes(PlaceOptions(), "place")
@as_json
@plain
def judge(
    models: tuple[str, ...],
    text: TextOptions,
    judging: JudgeOptions,
    sampling: TrainingOptions,
    place: PlaceOptions,
    as_json: bool,
) -> None:
    """Let models write texts on, and have that judged: by a model at an endpoint, or by a reference decoder."""
    loading(*models)
    from linscore.evaluation.judged_table import judged_table
    from linscore.jobs.judge import judged_json, run_judge
    from linscore.terminal import show

    found = run_judge(models, text=text, judging=judging, sampling=sampling, place=place)
    if as_json:
        click.echo(judged_json(found, judging, sampling), nl=False)
    else:
        show(judged_table(found, judging.judge or str(judging.reference)))
