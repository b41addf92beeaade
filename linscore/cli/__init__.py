"""The command line: reads options, calls the jobs, prints. Every error is one line and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import ExitStack
from typing import Any

import click

from linscore.cli.bench import bench
from linscore.cli.compare import compare
from linscore.cli.compress import compress
from linscore.cli.distil import distil
from linscore.cli.doctor import doctor
from linscore.cli.dynamics import dynamics
from linscore.cli.ends import as_ctrl_c, debug, end
from linscore.cli.evaluate import evaluate
from linscore.cli.finetune_delta import finetune_delta
from linscore.cli.fuse import fuse
from linscore.cli.judge import judge
from linscore.cli.lens import lens
from linscore.cli.linearize import linearize
from linscore.cli.plan import plan
from linscore.cli.probe import probe
from linscore.cli.prune import prune
from linscore.cli.rank import rank
from linscore.cli.report import report
from linscore.cli.score import score
from linscore.cli.score_states import score_states
from linscore.cli.several import check_shared, one_voice
from linscore.cli.takes import in_options
from linscore.cli.tokens import tokens
from linscore.cli.train import train
from linscore.errors import Interrupted, LinscoreError, LinscoreWarning

COMMANDS = (
    score,
    score_states,
    plan,
    rank,
    report,
    compare,
    prune,
    linearize,
    fuse,
    compress,
    distil,
    evaluate,
    judge,
    train,
    finetune_delta,
    dynamics,
    probe,
    tokens,
    lens,
    bench,
    doctor,
)
SHARED = (score, distil, evaluate, train, finetune_delta, dynamics, probe)  # which several processes do together
for command in COMMANDS:
    debug(command)
    command.short_help = (command.help or "").partition("\n\n")[0]  # whole in the list, which click would cut short


class _Commands(click.Group):
    """Says the library's errors in the options of the command that was called, which several processes must share."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        check_shared(name, command in SHARED)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (LinscoreError, Interrupted) as error:
            called = self.commands.get(ctx.invoked_subcommand or "")
            raise type(error)(in_options(str(error), called)) from error


@click.group(
    cls=_Commands,
    commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@debug
@click.version_option(package_name="linscore")
def cli() -> None:
    """How linear is each block of a transformer decoder? Score and rank blocks, cut them, and see what it costs."""


def main() -> None:
    """Entry point: whatever happens, one line on standard error says so (see `linscore.cli.ends`)."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries would bury the one line
    # transformers' advice about padding does not concern packed text, and bars of single files say nothing about a job.
    # By variables, because to import it takes seconds.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    formatted = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *where: (
        f"warning: {message}\n" if issubclass(category, LinscoreWarning) else formatted(message, category, *where)
    )
    before = signal.signal(signal.SIGTERM, as_ctrl_c)
    asked: dict[str, bool] = {}
    with ExitStack() as until:
        until.callback(signal.signal, signal.SIGTERM, before)
        until.callback(setattr, warnings, "formatwarning", formatted)
        try:
            with one_voice(until):
                cli.main(prog_name="linscore", standalone_mode=False, obj=asked)
                sys.stdout.flush()  # a closed pipe shows here, not when Python ends
        except (Exception, KeyboardInterrupt) as error:
            sys.exit(end(error, shown=asked.get("debug", False)))
