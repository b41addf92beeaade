"""`linscore doctor`."""

from __future__ import annotations

import json

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain


@click.command()
@as_json
@plain
def doctor(as_json: bool) -> None:
    """Show GPU, versions and backend, what is missing and how to get it."""
    loading("torch")
    from linscore.machine.doctor import findings
    from linscore.terminal import is_plain

    if as_json:
        click.echo(json.dumps(dict(findings()), indent=2))
        return
    for what, how in findings():
        click.echo(f"{what}\t{how}" if is_plain() else f"{what:<17} {how}")
