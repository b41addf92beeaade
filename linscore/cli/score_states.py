"""`linscore score-states`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.follow_up import next_command
from linscore.cli.meanwhile import loading
from linscore.cli.score import show_report
from linscore.cli.takes import as_json, plain, result_folder, takes
from linscore.options.place import PlaceOptions, SaveOptions
from linscore.options.score import ScoreOptions
from linscore.options.text import StatesOptions


@click.command("score-states")
@click.argument("folder", metavar="DIR")
@takes(StatesOptions(), "stored")
@takes(ScoreOptions(), "scoring", only=("folds", "skip_first", "precision"))
@takes(PlaceOptions(), "place", only=("device",))
@result_folder("Where the results go [default: scores/MODEL].")
@takes(SaveOptions(), "saving")
@as_json
@plain
def score_states(folder: str, as_json: bool, **asked: Any) -> None:
    """Score hidden states that vLLM, speculators or a script of yours has written to DIR.

    Each file holds one text: safetensors, npz or pt with `hidden_states` [tokens, states, features], and where they are
    known `token_ids` and an `attention_mask`; or npy, the states alone.
    """
    loading(folder)
    from linscore.jobs.score_states import run_score_states

    report, paths = run_score_states(folder, **asked)
    if as_json:
        click.echo(paths[0].read_text(encoding="utf-8"), nl=False)
        return
    show_report(report, paths)
    click.echo(f"next     {next_command('rank', paths[0].parent)}")
