"""Commands that cut a model, train what is left, and measure it: prune, linearize, fuse, distil, evaluate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from linscore.jobs.cut import Cut

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
    click.option(
        "--seq-len", type=int, metavar="L", help="Tokens in a sequence [default: the model's context, ≤ 2048]."
    ),
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
    from linscore.jobs.cut import run_prune

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
    from linscore.jobs.cut import run_linearize

    _show(run_linearize(model, say=_say, **options))


@click.command()
@click.argument("model")
@drop
@choice
@click.option("--on", default="auto", show_default=True, help="intermediate (better), output (smaller moments), auto.")
@click.option("--auto", is_flag=True, help="Put a linear block where nothing can be fused: see linearize.")
@ridge
@new
@place
def fuse(model: str, **options: Any) -> None:
    """Drop blocks of MODEL and fold their map into the MLP before them: a plain Hugging Face checkpoint."""
    from linscore.jobs.cut import run_fuse

    _show(run_fuse(model, say=_say, **options))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _show(cut: Cut) -> None:
    """What was done, what it saves, and what to do next."""
    click.echo(cut.record.summary())
    click.echo(f"model    {cut.out}")
    click.echo(f"next     linscore evaluate {cut.record.model} {cut.out}")


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@text
@click.option("--tasks", metavar="LIST", help="lm-eval tasks, such as arc_easy,boolq,cb.")
@click.option("--task-data", multiple=True, metavar="NAME=FILE", help="Data of a task from a local file: no network.")
@click.option("--include-path", metavar="DIR", help="A folder with more lm-eval task configurations.")
@click.option("--window", type=int, metavar="W", help="Tokens that a model is fed at a time [its context, ≤ 2048].")
@click.option("--stride", type=int, metavar="S", help="How far the window moves [half of it].")
@click.option("--batch-size", type=int, metavar="B", help="Windows or answers in a batch [4,096 tokens; GPU 16,384].")
@click.option("--limit", type=int, metavar="N", help="The first N questions of each task only.")
@place
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def evaluate(models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compare models: perplexity and bits per byte of a text, tasks, parameters, tokens per second, memory."""
    from linscore.evaluation.result import to_json
    from linscore.evaluation.table import evaluation_table
    from linscore.jobs.evaluate import run_evaluate
    from linscore.terminal import show

    evaluations = run_evaluate(models, **options)
    if as_json:
        click.echo(to_json(evaluations), nl=False)
    else:
        show(evaluation_table(evaluations))


@click.command()
@click.argument("student")
@click.option("--text", metavar="PATH", help="Text to train on: a file, a folder, jsonl, json, parquet, or -.")
@click.option("--dataset", metavar="NAME", help="A `datasets` name (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT), streamed.")
@click.option("--teacher", metavar="MODEL", help="The original [default: the model that STUDENT was cut from].")
@click.option("--train", default="replacements", show_default=True, help="replacements, or all weights.")
@click.option("--steps", type=int, default=500, show_default=True, metavar="N", help="Updates.")
@click.option("--batch-size", type=int, default=8, show_default=True, metavar="B", help="Sequences in a batch.")
@click.option("--seq-len", type=int, metavar="L", help="Tokens in a sequence [default: the model's context, ≤ 512].")
@click.option("--learning-rate", type=float, metavar="R", help="Its peak [default: 1e-3; all weights 3e-4].")
@click.option("--hidden", type=float, default=1.0, show_default=True, metavar="W", help="Weight of the states' error.")
@click.option("--kl", type=float, default=1.0, show_default=True, metavar="W", help="Weight of the logits' divergence.")
@click.option("--lm", type=float, default=0.0, show_default=True, metavar="W", help="Weight of the next token's loss.")
@click.option("--save-every", type=int, default=100, show_default=True, metavar="N", help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same options.")
@new
@click.option("--dtype", default="float32", show_default=True, help="The teacher's; the student trains in float32.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
def distil(student: str, **options: Any) -> None:
    """Train STUDENT, saved by prune, linearize or fuse, to do what its original does.

    The states behind each replacement are compared with those behind the blocks it stands for, and the logits.
    """
    from linscore.jobs.distil import run_distil

    done = run_distil(student, **options)
    about = done.record.distilled or {}
    click.echo(f"trained  {about['trained_parameters']:,} parameters on {about['tokens']:,} tokens of {about['text']}")
    click.echo(f"loss     {about['before']['loss']:.4f} → {about['after']['loss']:.4f} on its first batches")
    click.echo(f"model    {done.out}")
    click.echo(f"next     linscore evaluate {about['teacher']} {student} {done.out}")
