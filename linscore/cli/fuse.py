"""`linscore fuse`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.cut import cutting, say, show
from linscore.cli.meanwhile import loading
from linscore.cli.takes import takes
from linscore.options.cut import FuseOptions, MapOptions


@click.command()
@cutting("--drop")
@takes(FuseOptions(), "fusing")
@takes(MapOptions(), "form", only=("ridge",))
def fuse(model: str, as_json: bool, **asked: Any) -> None:
    """Drop blocks of MODEL and fold their map into the MLP before them: a plain Hugging Face checkpoint."""
    loading(model)
    from linscore.jobs.fuse import run_fuse

    show(run_fuse(model, say=say, **asked), as_json)
