"""`linscore score`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linscore.cli.follow_up import TEXT, TRUST, next_command
from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, result_folder, resume, takes
from linscore.embedded.shipped import EMBEDDED
from linscore.options.place import KeepOptions, LargeOptions, PlaceOptions, SaveOptions
from linscore.options.score import ScoreOptions, SelectOptions
from linscore.options.text import TextOptions

if TYPE_CHECKING:
    from linscore.scoring.report import Report

Paths = tuple[Path, Path]


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@takes(TextOptions(), "text")
@takes(PlaceOptions(), "place")
@takes(LargeOptions(), "large")
@takes(
    ScoreOptions(),
    "scoring",
    only=("folds", "skip_first", "precision", "sub_blocks", "until_stable", "sensitivity", "encoder"),
)
@takes(SelectOptions(), "selected")
@result_folder("Where the results go, of several models to folders in it [default: scores/MODEL].")
@takes(SaveOptions(), "saving")
@takes(KeepOptions(), "keep")
@resume
@click.option("--html", is_flag=True, help="Write a page to look at, too: report.html beside the report.")
@as_json
@plain
def score(models: tuple[str, ...], html: bool, as_json: bool, **asked: Any) -> None:
    """Score every block of MODEL: a Hub name, a folder, or the small decoder that ships with linscore.

    Several are scored one after the other. One that cannot be is said at the end, and the others keep their results.
    Several processes share the work on one: torchrun --nproc-per-node N -m linscore score MODEL …
    """
    models = models or (EMBEDDED,)
    loading(*models)
    from linscore.jobs.score import run_score, run_scores
    from linscore.machine.allocator import keep_freed_memory

    keep_freed_memory()
    if html:
        from linscore.scoring.on_page import check_page

        check_page()
    if len(models) > 1:
        _show_several(run_scores(models, **asked), html, as_json)
        return
    found = run_score(models[0], **asked)
    if found is None:
        return
    report, paths = found
    page = _page(report, paths) if html else None
    if as_json:
        click.echo(_text(paths), nl=False)
        return
    show_report(report, paths)
    folder = paths[0].parent
    click.echo(f"next     {next_command('rank', folder)}")
    if asked["text"].given and asked["text"].text != "-":  # measuring needs it again
        click.echo(f"         {next_command('rank', folder, keep=(*TEXT, TRUST))}")
    if models[0] == EMBEDDED:
        click.echo("         linscore score MODEL --text FILE   (MODEL: a Hub name or a folder)")
    if page is not None:
        click.echo(f"page     {page}")


def _page(report: Report, paths: Paths) -> Path:
    from linscore.jobs.report import PAGE, save_page

    folder = paths[0].parent
    return save_page([(folder, report)], folder / PAGE)


def _show_several(scored: Iterable[tuple[Report, Paths]], html: bool, as_json: bool) -> None:
    """Each as it comes, or all as one list: also those before an error."""
    texts = []
    try:
        for report, paths in scored:
            page = _page(report, paths) if html else None
            if as_json:
                texts.append(_text(paths).rstrip())
                continue
            show_report(report, paths)
            if page is not None:
                click.echo(f"page     {page}")
    finally:
        if as_json:
            click.echo(f"[{', '.join(texts)}]")


def show_report(report: Report, paths: Paths) -> None:
    """The table, and where the report and its moments are."""
    from linscore.scoring.table import score_table
    from linscore.terminal import show

    show(score_table(report))
    if report.stable_tokens is not None:
        click.echo(f"stable   after {report.stable_tokens:,} tokens")
    click.echo(f"report   {paths[0]}\nmoments  {paths[1]}")


def _text(paths: Paths) -> str:
    return paths[0].read_text(encoding="utf-8")
