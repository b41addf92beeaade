"""What is said on standard error before a command has anything to show: its imports alone may take ten seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from linscore.files.regular import check_regular
from linscore.models.names import check_name
from linscore.text.documents import read_documents


def loading(*names: str) -> None:
    """Say at once what is loaded, unless torch is there already and nobody has to wait.

    What can be seen to be wrong is refused before. Where JSON is asked for and no terminal shows standard error,
    whatever else might be said there is left out, too: some callers read both.
    """
    context = click.get_current_context()
    _check(context)
    if context.params.get("as_json") and not sys.stderr.isatty():
        from linscore.progress import silence

        context.with_resource(silence())
    elif "torch" not in sys.modules:
        click.echo(f"loading {', '.join(names)} …", err=True)


def _check(context: click.Context) -> None:
    """What the command's job would find out, too, some seconds later.

    Raises:
        LinscoreError: for a model, a text or labelled rows that are not there.
    """
    given = context.params
    models = given.get("models", ())
    if context.info_name == "score" and len(models) > 1:
        models = ()  # what is wrong with one of several is said at the end
    for name in (given.get("model"), *models, *given.get("checkpoints", ())):
        if name is not None:
            check_name(name)
    alone = given.get("dataset") is None
    for text in (given.get("text") if alone else None, given.get("score_text")):
        if text and text != "-":
            read_documents(text, lambda _doubt: None)
    if given.get("data") and alone:
        check_regular(Path(given["data"]), "give jsonl, json, parquet or csv")
