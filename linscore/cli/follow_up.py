"""What to run next, such that it can be pasted: with the options that were given, quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

import click
from click.core import ParameterSource

TEXT = ("text", "dataset", "tokens")
TRUST = "trust_remote_code"
PLACE = ("dtype", "device", TRUST)


def next_command(name: str, *words: object, keep: Collection[str] = (), **more: Any) -> str:
    """`linscore NAME WORDS`, with options behind it.

    Args:
        name: of a command.
        words: its arguments.
        keep: options of the running command that are repeated where they were given and `name` has them too.
        more: other options of `name`, left out where they are None.
    """
    context = click.get_current_context()
    asked = {one: context.params[one] for one in keep if one in context.params and _given(context, one)}
    if asked.get("text") == "-":  # which was read to its end
        del asked["text"]
    root = context.find_root().command
    assert isinstance(root, click.Group)
    flags = {one.name: one.opts[0] for one in root.commands[name].params if isinstance(one, click.Option)}
    line = ["linscore", name, *map(str, words)]
    for option, value in {**asked, **more}.items():
        if option in flags and value is not None and value is not False:
            line += [flags[option]] if value is True else [flags[option], str(value)]
    return shlex.join(line)


def _given(context: click.Context, option: str) -> bool:
    return context.get_parameter_source(option) is not ParameterSource.DEFAULT
