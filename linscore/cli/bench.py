"""`linscore bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, plain, takes
from linscore.errors import LinscoreError
from linscore.options.kernels import BenchOptions, TuneOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions


@click.command()
@takes(BenchOptions(), "states")
@takes(TextOptions(), "text", only=("tokens",), changed={"tokens": "Tokens [default: 16,384; GPU 65,536]."})
@takes(
    PlaceOptions(),
    "place",
    only=("dtype", "device"),
    changed={"dtype": "float32, bfloat16 or float16 [auto: float32; GPU bfloat16]."},
)
@click.option("--tune", is_flag=True, help="Measure launch parameters on this GPU first, and rewrite their table.")
@takes(TuneOptions(), "tuning")
@as_json
@plain
def bench(
    states: BenchOptions, text: TextOptions, place: PlaceOptions, tune: bool, tuning: TuneOptions, as_json: bool
) -> None:
    """Time every kernel beside its physical floor and plain torch."""
    if tuning != TuneOptions() and not tune:
        raise LinscoreError("what is to be tuned is given, but not `tune`: add it")
    loading("torch")
    from linscore.machine.bench import rendered, run_bench, run_tune
    from linscore.terminal import show

    if tune:
        say = partial(click.echo, err=as_json)
        say(f"rewrote  {run_tune(place.device, tuning, say)}")
    title, rows = run_bench(states.width, text.tokens, place.dtype, place.device)
    if as_json:
        click.echo(json.dumps({"of": title, "kernels": [asdict(row) | {"share": row.share} for row in rows]}, indent=2))
    else:
        show(rendered(rows, title))
