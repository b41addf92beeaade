"""Commands that cut a model, train what is left, and measure it: prune, linearize, fuse, distil, evaluate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from linscore.surgery_job import Cut

Command = Callable[..., Any]
LISTS = "With a comma or a dash, the blocks themselves: 2,5-7, or 5, for block 5 alone."


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options at once, in this order in the help."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


text = options(
    click.option("--text", metavar="PATH", help="Text to measure on: a file, a folder, jsonl, json, parquet, or -."),
    click.option("--dataset", metavar="NAME", help="A `datasets` name (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT)."),
    click.option("--tokens", type=int, metavar="N", help="Stop after N tokens [default: all; 1,000,000 of a dataset]."),
)
place = options(
    click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …"),
)
new = click.option("--out", required=True, metavar="DIR", help="The new checkpoint: a folder that is not there yet.")
choice = options(
    click.option("--moments", metavar="DIR", help="What `linscore score --out DIR` wrote for MODEL."),
    click.option("--by", metavar="METRIC", help="What ranks the blocks: any figure of `linscore rank`, or perplexity."),
    click.option("--span", type=int, default=1, show_default=True, metavar="K", help="Rank spans of K blocks."),
    click.option("--sequential", is_flag=True, help="Measure again after each choice, on what is left; needs a text."),
    text,
)
drop = click.option(
    "--drop",
    "blocks",
    required=True,
    metavar="N|LIST",
    help=f"A plain number N: the N first blocks of the ranking. {LISTS}",
)
ridge = click.option("--ridge", metavar="λ", help="auto (least held-out error), 0 for none, or a number [auto].")


@click.command()
@click.argument("model")
@drop
@choice
@new
@place
def prune(model: str, **options: Any) -> None:
    """Drop blocks of MODEL and save what is left as a plain Hugging Face checkpoint."""
    from linscore.surgery_job import run_prune

    _show(run_prune(model, **options))


@click.command()
@click.argument("model")
@click.option(
    "--replace",
    "blocks",
    required=True,
    metavar="N|LIST",
    help=f"A plain number N: the N first blocks of the ranking. {LISTS} 5-7 is one map for three blocks.",
)
@choice
@click.option("--rank", type=int, metavar="R", help="The best map of rank R, stored as two factors.")
@click.option("--diagonal", is_flag=True, help="One number for each feature.")
@ridge
@new
@place
def linearize(model: str, **options: Any) -> None:
    """Put affine maps in the place of blocks and spans of MODEL, and save the result.

    It loads with linscore.load, and with AutoModelForCausalLM where trust_remote_code is given.
    """
    from linscore.surgery_job import run_linearize

    _show(run_linearize(model, say=_say, **options))


@click.command()
@click.argument("model")
@drop
@choice
@click.option("--on", default="auto", show_default=True, help="intermediate (better), output (smaller moments), auto.")
@click.option("--auto", is_flag=True, help="Put a linear block where nothing can be fused, and say why.")
@ridge
@new
@place
def fuse(model: str, **options: Any) -> None:
    """Drop blocks of MODEL and fold their map into the MLP before them: a plain Hugging Face checkpoint."""
    from linscore.surgery_job import run_fuse

    _show(run_fuse(model, say=_say, **options))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _show(cut: Cut) -> None:
    """What was done, what it saves, and what to do next."""
    click.echo(cut.record.summary())
    click.echo(f"model    {cut.out}")
    click.echo(f"next     linscore evaluate {cut.record.model} {cut.out}")
