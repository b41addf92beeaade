"""`linscore rank`."""

from __future__ import annotations

import json

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import takes
from linscore.options import CutOptions, PlaceOptions, TextOptions


@click.command()
@click.argument("folder", metavar="DIR")
@takes(
    CutOptions(),
    "ranking",
    only=("by", "span"),
    changed={"by": "A figure of the report, or perplexity [block_influence; with a text perplexity]."},
)
@takes(TextOptions(), "text", only=("text", "dataset", "tokens"))
@takes(PlaceOptions(), "place", only=("trust_remote_code",))
@click.option("--json", "as_json", is_flag=True, help='Print blocks, best first, as JSON: [3, 1, …] or ["3-5", …].')
def rank(folder: str, ranking: CutOptions, text: TextOptions, place: PlaceOptions, as_json: bool) -> None:
    """Order the blocks of a scored model, or spans of them, what looks easiest to do without first.

    By perplexity it measures, on --text: it loads the model and leaves out one block, or span, after the other.
    """
    loading(folder)
    from linscore.jobs.rank import run_rank
    from linscore.scoring.table import rank_table
    from linscore.terminal import show

    found = run_rank(folder, ranking.by, span=ranking.span, text=text, place=place)
    if as_json:
        click.echo(json.dumps([one.first if ranking.span == 1 else str(one) for one in found.figures]))
    else:
        show(rank_table(found.figures, found.by, found.whole))
