"""`linscore score`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.follow_up import TEXT, TRUST, next_command
from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, result_folder, resume, takes
from linscore.embedded.shipped import EMBEDDED
from linscore.options import KeepOptions, PlaceOptions, SaveOptions, ScoreOptions, SelectOptions, TextOptions


@click.command()
@click.argument("model", default=EMBEDDED)
@takes(TextOptions(), "text")
@takes(PlaceOptions(), "place")
@takes(ScoreOptions(), "scoring", only=("folds", "skip_first", "precision", "sub_blocks", "until_stable"))
@takes(SelectOptions(), "selected")
@result_folder("Where the results go [default: scores/MODEL].")
@takes(SaveOptions(), "saving")
@takes(KeepOptions(), "keep")
@resume
@as_json
def score(model: str, out: str | None, as_json: bool, **asked: Any) -> None:
    """Score every block of MODEL: a Hub name, a folder, or the small decoder that ships with linscore."""
    loading(model)
    from linscore.jobs.score import run_score
    from linscore.machine.allocator import keep_freed_memory
    from linscore.scoring.table import score_table
    from linscore.terminal import show

    keep_freed_memory()
    report, paths = run_score(model, out=out, **asked)
    if as_json:
        click.echo(paths[0].read_text(encoding="utf-8"), nl=False)
        return
    show(score_table(report))
    if report.stable_tokens is not None:
        click.echo(f"stable   after {report.stable_tokens:,} tokens")
    click.echo(f"report   {paths[0]}\nmoments  {paths[1]}")
    folder = paths[0].parent
    click.echo(f"next     {next_command('rank', folder)}")
    if asked["text"].given and asked["text"].text != "-":  # measuring needs it again
        click.echo(f"         {next_command('rank', folder, keep=(*TEXT, TRUST))}")
    if model == EMBEDDED:
        click.echo("         linscore score MODEL --text FILE   (MODEL: a Hub name or a folder)")
