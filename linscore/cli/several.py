"""Several processes of one command, as torchrun starts them: the first alone speaks, and all end together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import click

from linscore.cli.ends import line_of
from linscore.errors import LinscoreError


def started() -> int:
    """How many processes the launcher says that there are."""
    given = os.environ.get("WORLD_SIZE") or "1"
    if not given.isdigit() or given == "0":
        raise LinscoreError(f"WORLD_SIZE={given} is no number of processes: start them by torchrun, or unset it")
    return int(given)


@contextmanager
def one_voice(until: ExitStack) -> Iterator[None]:
    """For a whole command: meets the other processes, and ends with them; what ends it comes out to be said.

    All but the first are silent until `until` closes, unless the first is gone.

    Raises:
        LinscoreError: when another process has ended, with what it says, or that it is gone.
    """
    count = started()
    if count == 1:
        yield
        return
    if "RANK" not in os.environ:
        raise LinscoreError(
            f"{count} processes were started (WORLD_SIZE), but nothing numbers them (RANK): start them by torchrun, or "
            "unset WORLD_SIZE"
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings about connections would bury the one line
    from linscore.machine.heartbeat import Heartbeat, meeting_place

    number, out = int(os.environ["RANK"]), sys.stderr
    if number:
        nowhere = until.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        until.enter_context(redirect_stdout(nowhere))
        until.enter_context(redirect_stderr(nowhere))
    heartbeat = Heartbeat(meeting_place(), number, count, lambda line: print(f"linscore: {line}", file=out, flush=True))
    try:
        heartbeat.meet()
        yield
        heartbeat.part()
    except (Exception, KeyboardInterrupt) as error:
        line = line_of(error)
        certain = isinstance(error, LinscoreError | click.ClickException)
        interrupted = isinstance(error, click.Abort | KeyboardInterrupt)
        said, speaks = heartbeat.verdict(line, certain=certain, interrupted=interrupted)
        if speaks and number:
            until.enter_context(redirect_stderr(out))
        if said == line:
            raise
        raise LinscoreError(said) from error


def check_shared(name: str | None, shared: bool) -> None:
    """Make sure that a command whose work is not shared is not done by several processes.

    Raises:
        LinscoreError: if it is.
    """
    if not shared and started() > 1:
        raise LinscoreError(f"linscore {name} runs in one process: start it without torchrun")
