"""Commands that look: score, rank, bench, doctor."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
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
@click.option("--for", "collect_for", metavar="LIST", help="Collect more moments: spans, fuse, fuse-output.")
@click.option("--span-lengths", default="2", show_default=True, metavar="LIST", help="Blocks in a span, such as 2-4.")
@click.option("--out", metavar="DIR", help="Where the results go [default: scores/MODEL].")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of the table.")
def score(model: str, out: str | None, as_json: bool, **options: Any) -> None:
    """Score every block of MODEL: a Hub name, a folder, or the small decoder that ships with linscore."""
    from linscore.jobs.score import run_score
    from linscore.machine.allocator import keep_freed_memory
    from linscore.scoring.table import score_table
    from linscore.terminal import show

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


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--by", default="linearity_heldout", show_default=True, metavar="METRIC", help="Any figure of a block.")
@click.option("--span", type=int, default=1, show_default=True, metavar="K", help="Rank spans of K blocks.")
@click.option("--text", metavar="PATH", help="For --by perplexity: the text to leave blocks out on.")
@click.option("--dataset", metavar="NAME", help="The same, a `datasets` name.")
@click.option("--tokens", type=int, metavar="N", help="How many tokens of it [default: all; 1,000,000 of a dataset].")
@click.option("--json", "as_json", is_flag=True, help='Print blocks, best first, as JSON: [3, 1, …] or ["3-5", …].')
def rank(folder: str, by: str, span: int, as_json: bool, **text: Any) -> None:
    """Order the blocks of a scored model, or spans of them, what looks easiest to do without first.

    --by perplexity measures: it loads the model and leaves out one block, or span, after the other.
    """
    from linscore.jobs.rank import run_rank
    from linscore.scoring.table import rank_table
    from linscore.terminal import show

    figures = run_rank(folder, by, span=span, **text)
    if as_json:
        click.echo(json.dumps([one.first if span == 1 else str(one) for one in figures]))
    else:
        show(rank_table(figures, by))


@click.command()
@click.option("--width", type=int, metavar="D", help="Features of a token [default: 768; GPU 4,096].")
@click.option("--tokens", type=int, metavar="N", help="Tokens [default: 16,384; GPU 65,536].")
@click.option("--dtype", help="float32, bfloat16 or float16 [default: float32; GPU bfloat16].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--tune", is_flag=True, help="Measure launch parameters on this GPU first, and rewrite their table.")
def bench(tune: bool, **options: Any) -> None:
    """Time every kernel beside its physical floor and plain torch."""
    from linscore.machine.bench import run_bench, run_tune
    from linscore.terminal import show

    if tune:
        click.echo(f"rewrote  {run_tune(options['device'], click.echo)}")
    show(run_bench(**options))


@click.command()
def doctor() -> None:
    """Show GPU, versions and backend, what is missing and how to get it."""
    from linscore.machine.doctor import findings

    for what, how in findings():
        click.echo(f"{what:<17} {how}")
