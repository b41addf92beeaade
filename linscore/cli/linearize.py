"""`linscore linearize`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.cut import PARTS, cutting, say, show
from linscore.cli.meanwhile import loading
from linscore.cli.takes import takes
from linscore.options.cut import MapOptions


@click.command()
@cutting("--replace", f" 5-7 is one map for three blocks.{PARTS}")
@takes(MapOptions(), "form")
def linearize(model: str, as_json: bool, **asked: Any) -> None:
    """Put affine maps in the place of blocks and spans of MODEL, and save the result.

    It loads with linscore.load, and with AutoModelForCausalLM where trust_remote_code is given.
    """
    loading(model)
    from linscore.jobs.linearize import run_linearize

    show(run_linearize(model, say=say, **asked), as_json)
