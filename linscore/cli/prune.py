"""`linscore prune`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.cut import cutting, show
from linscore.cli.meanwhile import loading


@click.command()
@cutting("--drop")
def prune(model: str, as_json: bool, **asked: Any) -> None:
    """Drop blocks of MODEL and save what is left as a plain Hugging Face checkpoint."""
    loading(model)
    from linscore.jobs.prune import run_prune

    show(run_prune(model, **asked), as_json)
