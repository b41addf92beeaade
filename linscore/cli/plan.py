"""`linscore plan`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, in_options, plain, takes
from linscore.embedded.shipped import EMBEDDED
from linscore.options.place import LargeOptions, PlaceOptions, PlanOptions
from linscore.options.score import ScoreOptions, SelectOptions
from linscore.options.text import TextOptions


@click.command()
@click.argument("model", default=EMBEDDED)
@takes(TextOptions(), "text", only=("tokens", "seq_len", "batch_size"))
@takes(PlanOptions(), "planned")
@takes(LargeOptions(), "large")
@takes(PlaceOptions(), "place")
@takes(ScoreOptions(), "scoring", only=("folds", "precision", "sub_blocks", "encoder"))
@takes(SelectOptions(), "selected", only=("blocks", "collect_for", "span_lengths"))
@as_json
@plain
def plan(model: str, as_json: bool, **asked: Any) -> None:
    """Say what a score of MODEL takes and how long, before it is begun.

    A configuration is enough: no weights are read. MODEL is a Hub name, a folder, or `embedded`.
    """
    loading(model)
    from linscore.files.json_file import json_text
    from linscore.jobs.plan import run_plan
    from linscore.scoring.plan_table import plan_dict, plan_table
    from linscore.terminal import show

    found = run_plan(model, **asked)
    found = replace(found, why=in_options(found.why, click.get_current_context().command))
    if as_json:
        click.echo(json_text(plan_dict(found), None), nl=False)
    else:
        show(plan_table(found))
