"""What is said on standard error before a command has anything to show: its imports alone may take ten seconds."""

from __future__ import annotations

import sys

import click


def loading(*names: str) -> None:
    """Say at once what is loaded, unless torch is there already and nobody has to wait.

    Where JSON is asked for and no terminal shows standard error, whatever else might be said there is left out, too:
    some callers read both.
    """
    context = click.get_current_context()
    if context.params.get("as_json") and not sys.stderr.isatty():
        from linscore.progress import silence

        context.with_resource(silence())
    elif "torch" not in sys.modules:
        click.echo(f"loading {', '.join(names)} …", err=True)
