"""The command line: reads options, calls the jobs, prints. Every mistake of the user is one line and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from linscore.cli.bench import bench
from linscore.cli.distil import distil
from linscore.cli.doctor import doctor
from linscore.cli.dynamics import dynamics
from linscore.cli.evaluate import evaluate
from linscore.cli.finetune_delta import finetune_delta
from linscore.cli.fuse import fuse
from linscore.cli.linearize import linearize
from linscore.cli.probe import probe
from linscore.cli.prune import prune
from linscore.cli.rank import rank
from linscore.cli.score import score
from linscore.cli.takes import in_options
from linscore.cli.train import train
from linscore.errors import Interrupted, LinscoreError

COMMANDS = (
    score,
    rank,
    prune,
    linearize,
    fuse,
    distil,
    evaluate,
    train,
    finetune_delta,
    dynamics,
    probe,
    bench,
    doctor,
)


class _Commands(click.Group):
    """Says the library's errors in the options of the command that was called."""

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
@click.version_option(package_name="linscore")
def cli() -> None:
    """How linear is each block of a transformer decoder? Score and rank blocks, cut them, and see what it costs."""


def main() -> None:
    """Entry point: one line on standard error for what the user can mend."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries would bury the one line
    # transformers' advice about padding does not concern packed text, and bars of single files say nothing about a job.
    # By variables, because to import it takes seconds.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every context: nothing half is left
    try:
        cli.main(prog_name="linscore", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except (LinscoreError, OSError) as error:
        _fail(str(error))
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ if isinstance(error, click.Abort) else error  # click wraps what Ctrl-C raised
        left = str(cause) if isinstance(cause, Interrupted) else "interrupted, nothing was written"
        click.echo(f"linscore: {left}", err=True)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str) -> None:
    click.echo(f"linscore: {' '.join(message.split())}", err=True)
    sys.exit(2)
