"""Options out of `linscore.options`, the few that only a terminal has, and errors in the words of the command line."""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

import click

from linscore.errors import LinscoreError
from linscore.files.whole import check_new

__all__ = ["as_json", "figures", "in_options", "new_folder", "plain", "result_folder", "resume", "run_folder", "takes"]

Command = Callable[..., Any]
_ARGUMENT = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")  # as `linscore.errors` has it


def takes(
    defaults: Any,
    into: str,
    *,
    only: Collection[str] = (),
    required: str | None = None,
    changed: Mapping[str, str] | None = None,
    flag: str | None = None,
) -> Callable[[Command], Command]:
    """Give a command the options of a class of `linscore.options`, and hand it an instance as the argument `into`.

    Args:
        defaults: the instance whose values are the defaults.
        into: name of the command's argument.
        only: names of the fields that this command has; all by default.
        required: a field that must be given.
        changed: what fields mean to this command, where it is not what they mean to all.
        flag: the name of the option of `required`.
    """
    wanted = [one for one in fields(defaults) if not only or one.name in only]
    kinds = typing.get_type_hints(type(defaults))

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(*args: Any, **values: Any) -> Any:
            given = {one.name: values.pop(one.name) for one in wanted}
            return command(*args, **{into: replace(defaults, **given)}, **values)

        for one in reversed(wanted):
            needed = one.name == required
            meaning = (changed or {}).get(one.name, one.metadata["help"])
            word = one.metadata["flag"] or one.name.replace("_", "-")
            names = [flag if needed and flag is not None else f"--{word}", one.name]
            settings = {"required": True} if needed else _settings(one, kinds[one.name], getattr(defaults, one.name))
            gathered = click.option(*names, metavar=one.metadata["metavar"], help=meaning, **settings)(gathered)
        return gathered

    return decorate


def _settings(one: Field[Any], kind: Any, default: Any) -> dict[str, Any]:
    """What click is told of a field."""
    if typing.get_origin(kind) is tuple:
        return {"multiple": True, "default": default}
    plain = next(part for part in typing.get_args(kind) if part is not types.NoneType) if one.default is None else kind
    if plain is bool:
        return {"is_flag": True, "default": default}
    return {"type": plain, "default": default, "show_default": default not in (None, "")}


def _plainly(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from linscore.terminal import plainly

        ctx.with_resource(plainly())


plain = click.option(
    "--plain",
    is_flag=True,
    expose_value=False,
    envvar="LINSCORE_PLAIN",
    callback=_plainly,
    help="Print tables as lines with tabs: for awk, and for screen readers.",
)


def _draw_as(ctx: click.Context, _param: click.Parameter, value: str) -> None:
    from linscore.pictures import drawn_as

    ctx.with_resource(drawn_as(value))


figures = click.option(
    "--figures",
    type=click.Choice(["png", "svg"]),
    default="png",
    show_default=True,
    expose_value=False,
    callback=_draw_as,
    help="Format of the pictures.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
resume = click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same options.")


def _named(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A folder that has a name: an empty one would be where the command runs."""
    if value == "":
        raise LinscoreError(f"`{param.name}` is empty: give the name of a folder")
    return value


def _new(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if _named(ctx, param, value) is not None:
        check_new(Path(str(value)))
    return value


def result_folder(meaning: str, *, required: bool = False, new: bool = False) -> Callable[[Command], Command]:
    """--out of a command whose results go into a folder, which may be there unless it is to be `new`."""
    return click.option("--out", callback=_new if new else _named, metavar="DIR", required=required, help=meaning)


NEW = "The result: a folder that is not there yet."
new_folder = result_folder(NEW, required=True, new=True)
run_folder = result_folder(NEW, required=True)  # which says that the run in it can be resumed


def in_options(message: str, command: click.Command | None) -> str:
    """A message of the library with the command's options in the place of arguments between backticks."""
    flags = (
        {} if command is None else {one.name: one.opts[0] for one in command.params if isinstance(one, click.Option)}
    )

    def option(match: re.Match[str]) -> str:
        name, value = flags.get(match[1], match[1]), match[2]
        return name if value is None else f"{name} {value}"

    return _ARGUMENT.sub(option, message)
