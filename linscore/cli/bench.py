"""`linscore bench`."""

from __future__ import annotations

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import plain, takes
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
@plain
def bench(states: BenchOptions, text: TextOptions, place: PlaceOptions, tune: bool, tuning: TuneOptions) -> None:
    """Time every kernel beside its physical floor and plain torch."""
    if tuning != TuneOptions() and not tune:
        raise LinscoreError("what is to be tuned is given, but not `tune`: add it")
    loading("torch")
    from linscore.machine.bench import run_bench, run_tune
    from linscore.terminal import show

    if tune:
        click.echo(f"rewrote  {run_tune(place.device, tuning, click.echo)}")
    show(run_bench(states.width, text.tokens, place.dtype, place.device))
