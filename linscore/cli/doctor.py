"""`linscore doctor`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading


@click.command()
def doctor() -> None:
    """Show GPU, versions and backend, what is missing and how to get it."""
    loading("torch")
    from linscore.machine.doctor import findings

    for what, how in findings():
        click.echo(f"{what:<17} {how}")
