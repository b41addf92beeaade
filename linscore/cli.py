"""The command line: reads options, calls the rooms, prints. Every mistake of the user is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from linscore.errors import LinscoreError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="linscore")
def cli() -> None:
    """How linear is each block of a transformer decoder? Score, rank, and see what could go."""


@cli.command()
@click.argument("model", default="embedded")
@click.option("--text", metavar="PATH", help="Text, jsonl, json or parquet file, a folder, or - for standard input.")
@click.option("--dataset", metavar="NAME", help="A `datasets` name (NAME, NAME:CONFIG or NAME:CONFIG:SPLIT), streamed.")
@click.option("--tokens", type=int, metavar="N", help="Stop after N tokens [default: all; 1,000,000 of a dataset].")
@click.option("--seq-len", type=int, metavar="L", help="Tokens in a sequence [default: the model's context, ≤ 2048].")
@click.option("--batch-size", type=int, metavar="B", help="Sequences in a batch [default: 4,096 tokens; GPU 16,384].")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--folds", type=int, default=2, show_default=True, help="Cross-validation folds for held-out scores.")
@click.option("--skip-first", type=int, default=0, show_default=True, help="Leave out the first K positions.")
@click.option("--skip-special", is_flag=True, help="Leave out the positions of special tokens.")
@click.option("--precision", default="fast", show_default=True, help="fast or exact.")
@click.option("--blocks", metavar="LIST", help="Blocks to score, such as 0-5,7 [default: all].")
@click.option("--sub-blocks", is_flag=True, help="Score attention and MLP apart too.")
@click.option("--out", metavar="DIR", help="Where the results go [default: scores/MODEL].")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of the table.")
def score(model: str, out: str | None, as_json: bool, **options: Any) -> None:
    """Score every block of MODEL: a Hub name, a folder, or the small decoder that ships with linscore."""
    from linscore.allocator import keep_freed_memory
    from linscore.job import run_score
    from linscore.table import score_table, show

    keep_freed_memory()
    report, paths = run_score(model, out=out, **options)
    if as_json:
        click.echo(report.to_json(), nl=False)
        return
    show(score_table(report))
    click.echo(f"report   {paths[0]}\nmoments  {paths[1]}")
    click.echo(f"next     linscore rank {paths[0].parent} --by block_influence")
    if model == "embedded":
        click.echo("         linscore score MODEL --text FILE   (MODEL: a Hub name or a folder)")


@cli.command()
@click.argument("folder", metavar="DIR")
@click.option("--by", default="linearity_heldout", show_default=True, metavar="METRIC", help="Any figure of a block.")
@click.option("--json", "as_json", is_flag=True, help="Print block indices, best first, as JSON.")
def rank(folder: str, by: str, as_json: bool) -> None:
    """Order the blocks of a scored model, the one that looks easiest to do without first."""
    from linscore.rank import rank as rank_blocks
    from linscore.report import Report
    from linscore.table import rank_table, show

    blocks = rank_blocks(Report.load(folder), by)
    if as_json:
        click.echo([block.index for block in blocks])
    else:
        show(rank_table(blocks, by))


@cli.command()
@click.argument("model")
@click.option("--moments", metavar="DIR", help="What `linscore score --out DIR` wrote for MODEL: ranks its blocks.")
@click.option(
    "--drop",
    "drop_blocks",
    required=True,
    metavar="N|LIST",
    help="A plain number N: the N first blocks of `linscore rank DIR`. With a comma or a dash, the blocks themselves: "
    "2,5-7, or 5, for block 5 alone.",
)
@click.option("--by", metavar="METRIC", help="The figure that ranks the blocks [default: linearity_heldout].")
@click.option("--out", required=True, metavar="DIR", help="The new checkpoint: a folder that is not there yet.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16 or float16.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
def prune(model: str, **options: Any) -> None:
    """Drop blocks of MODEL and save what is left as a plain Hugging Face checkpoint."""
    from linscore.prune_job import run_prune

    pruned = run_prune(model, **options)
    click.echo(f"dropped  {pruned.dropped}")
    click.echo(f"left     {pruned.depth} of {pruned.depth_before} blocks, ", nl=False)
    click.echo(f"{pruned.parameters:,} of {pruned.parameters_before:,} parameters")
    click.echo(f"model    {pruned.out}")
    click.echo(f"next     linscore score {pruned.out}")


@cli.command()
@click.option("--width", type=int, metavar="D", help="Features of a token [default: 768; GPU 4,096].")
@click.option("--tokens", type=int, metavar="N", help="Tokens [default: 16,384; GPU 65,536].")
@click.option("--dtype", help="float32, bfloat16 or float16 [default: float32; GPU bfloat16].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--tune", is_flag=True, help="Measure launch parameters on this GPU first, and rewrite their table.")
def bench(tune: bool, **options: Any) -> None:
    """Time every kernel beside its physical floor and plain torch."""
    from linscore.bench import run_bench, run_tune
    from linscore.table import show

    if tune:
        click.echo(f"rewrote  {run_tune(options['device'], click.echo)}")
    show(run_bench(**options))


@cli.command()
def doctor() -> None:
    """Show GPU, versions and backend, what is missing and how to get it."""
    from linscore.doctor import findings

    for what, how in findings():
        click.echo(f"{what:<17} {how}")


def main() -> None:
    """Entry point: one line on standard error for what the user can mend."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries would bury the one line
    try:
        cli.main(prog_name="linscore", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except (LinscoreError, OSError) as error:
        _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        click.echo("linscore: interrupted, nothing was written", err=True)
        sys.exit(130)


def _fail(message: str) -> None:
    click.echo(f"linscore: {' '.join(message.split())}", err=True)
    sys.exit(2)
