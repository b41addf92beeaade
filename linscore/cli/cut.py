"""What prune, linearize and fuse share: which blocks go, and what is printed of a cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from linscore.cli.follow_up import PLACE, TEXT, next_command
from linscore.cli.takes import Command, as_json, new_folder, plain, takes
from linscore.options.cut import CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions

if TYPE_CHECKING:
    from linscore.jobs.cut import Cut

_LISTS = "With a comma or a dash, the blocks themselves: 2,5-7, or 5, for block 5 alone."
PARTS = " 3.attention and 3.mlp are parts of block 3."


def cutting(flag: str, more: str = "") -> Callable[[Command], Command]:
    """The options of a command that cuts; `flag` names the blocks, `more` says what else it names."""

    def decorate(command: Command) -> Command:
        meaning = f"A plain number N: the N first blocks of the ranking. {_LISTS}{more}"
        for options in (
            plain,
            as_json,
            takes(PlaceOptions(), "place"),
            new_folder,
            takes(TextOptions(), "text", only=("text", "dataset", "tokens", "seq_len")),
            takes(CutOptions(), "cut", required="blocks", flag=flag, changed={"blocks": meaning}),
            click.argument("model"),
        ):
            command = options(command)
        return command

    return decorate


def say(line: str) -> None:
    """A line beside the result."""
    click.echo(line, err=True)


def show(cut: Cut, as_json: bool) -> None:
    """What was done, what it saves, and what to do next; or the record of it as JSON."""
    if as_json:
        click.echo(cut.record.to_json(), nl=False)
        return
    click.echo(cut.record.summary())
    click.echo(f"model    {cut.out}")
    window = click.get_current_context().params["seq_len"]
    evaluate = next_command("evaluate", cut.record.model, cut.out, keep=(*TEXT, *PLACE), window=window)
    click.echo(f"next     {evaluate}")
