"""`linscore prune`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.cut import PARTS, cutting, show
from linscore.cli.meanwhile import loading


@click.command()
@cutting("--drop", PARTS)
def prune(model: str, as_json: bool, **asked: Any) -> None:
    """Drop blocks of MODEL, or attention and MLP of some, and save what is left.

    Without parts of blocks it is a plain Hugging Face checkpoint; with them it loads as what linearize saves.
    """
    loading(model)
    from linscore.jobs.prune import run_prune

    show(run_prune(model, **asked), as_json)
