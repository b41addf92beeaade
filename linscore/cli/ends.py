"""How the command line ends where it does not end well: an exit code, and one line on standard error that says why."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

import click

from linscore.errors import Interrupted, LinscoreError, reason
from linscore.machine.memory import is_out_of_memory

BROKEN_PIPE = 1  # as click and rich say, who notice most of them
OURS = ("linscore", "linscore_kernels")


def _remember(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().ensure_object(dict)["debug"] = True


debug = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    envvar="LINSCORE_DEBUG",
    callback=_remember,
    help="Show the traceback of an error; so does LINSCORE_DEBUG=1.",
)


def end(error: BaseException, *, shown: bool) -> int:
    """Say what ended a command in one line, behind its traceback where that is to be shown; the exit code."""
    if isinstance(error, BrokenPipeError):  # `linscore … | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the very end
        return BROKEN_PIPE
    if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # a file that ends too early, which click takes for Ctrl-D
    if shown:
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2
    click.echo(f"linscore: {line_of(error)}", err=True)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return 130 if signal.getsignal(signal.SIGTERM) is as_ctrl_c else 143
    return 2


def as_ctrl_c(*_: object) -> None:
    """For SIGTERM: ends by way of every context, and only once, so that nothing half is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def line_of(error: BaseException) -> str:
    """What is said of an error, in one line."""
    return " ".join(_said(error).split())


def _said(error: BaseException) -> str:
    if isinstance(error, click.Abort | KeyboardInterrupt):
        cause = error.__cause__ if isinstance(error, click.Abort) else error  # click wraps what Ctrl-C raised
        return str(cause) if isinstance(cause, Interrupted) else "interrupted, nothing was written"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, LinscoreError):
        return str(error)
    if isinstance(error, OSError):
        return _of_the_system(error)
    if is_out_of_memory(error):
        return f"there is not enough memory: give a smaller batch or fewer tokens, or another device ({reason(error)})"
    return (
        f"this is a bug of linscore: {type(error).__name__}: {reason(error)} (at {_place(error)}); "
        "please report it with what --debug shows"
    )


def _of_the_system(error: OSError) -> str:
    """What the system refused, without its number: "out/x: Permission denied"."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {said}" if isinstance(error.filename, str | bytes | os.PathLike) else said


def _place(error: BaseException) -> str:
    """The last file and line of linscore, or of all where there is none, without where it is installed."""
    places = [
        (str(frame.f_globals.get("__name__")), frame, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    module, frame, line = ([one for one in places if one[0].split(".")[0] in OURS] or places)[-1]
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-(module.count('.') + 1 + (path.stem == '__init__')) :])}:{line}"
