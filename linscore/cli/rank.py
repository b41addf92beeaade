"""`linscore rank`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import plain, takes
from linscore.errors import LinscoreError
from linscore.options.cut import CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions

if TYPE_CHECKING:
    from linscore.jobs.rank_cut import RankedCut

FORMATS = ("mergekit", "llama.cpp", "json")


@click.command()
@click.argument("folder", metavar="DIR")
@takes(
    CutOptions(),
    "ranking",
    only=("by", "span", "blocks"),
    changed={
        "by": "A figure of the report, or perplexity [expected_loss or block_influence; with a text perplexity].",
        "blocks": "With --format: how many blocks go, or which, as prune takes it.",
    },
)
@click.option("--format", "tool", type=click.Choice(FORMATS), help="Print the cut that drops them, for that tool.")
@takes(TextOptions(), "text", only=("text", "dataset", "tokens"))
@takes(PlaceOptions(), "place", only=("trust_remote_code",))
@click.option("--json", "as_json", is_flag=True, help='Print blocks, best first, as JSON: [3, 1, …] or ["3-5", …].')
@plain
def rank(
    folder: str, ranking: CutOptions, tool: str | None, text: TextOptions, place: PlaceOptions, as_json: bool
) -> None:
    """Order the blocks of a scored model, or spans of them, what looks easiest to do without first.

    By perplexity it measures, on --text: it loads the model and leaves out one block, or span, after the other. With
    --drop and --format it prints what mergekit or llama.cpp is told so that it drops the blocks that prune would.
    """
    if (tool is None) != (not ranking.blocks) or (tool and as_json):
        raise LinscoreError("`blocks` and `tool` belong together, and not to `as_json`: give both, or neither")
    loading(folder)
    if tool is not None:
        from linscore.jobs.rank_cut import run_rank_cut

        _show_cut(run_rank_cut(folder, ranking, text=text, place=place), tool)
        return
    from linscore.jobs.rank import run_rank
    from linscore.scoring.table import rank_table
    from linscore.terminal import show

    found = run_rank(folder, ranking.by, span=ranking.span, text=text, place=place)
    if as_json:
        click.echo(json.dumps([one.first if ranking.span == 1 else str(one) for one in found.figures]))
    else:
        show(rank_table(found.figures, found.by, found.whole))


def _show_cut(cut: RankedCut, tool: str) -> None:
    """What goes to the tool on standard output, and what it leaves undone on standard error.

    Raises:
        LinscoreError: where the tool would make another model.
    """
    same, says = cut.same_cut, json.dumps(cut.same_cut.config)
    if tool == "json":
        click.echo(json.dumps(asdict(cut), indent=2))
    elif tool == "mergekit":
        click.echo(same.yaml(), nl=False)
        click.echo(f"config.json of the result must say {says}: mergekit may not see to that", err=True)
    elif same.llama_cpp is None:
        raise LinscoreError(
            "llama-quantize leaves lists with an entry for each block as they are, so blocks would be of other kinds "
            f"than they were: only {says} is this cut"
        )
    else:
        click.echo(same.llama_cpp)
