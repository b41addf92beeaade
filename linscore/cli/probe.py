"""`linscore probe`."""

from __future__ import annotations

from typing import Any

import click

from linscore.cli.meanwhile import loading
from linscore.cli.takes import as_json, figures, plain, result_folder, takes
from linscore.embedded.shipped import EMBEDDED
from linscore.options.place import PlaceOptions
from linscore.options.text import LabelledOptions, TextOptions
from linscore.options.training import PROBE_TRAINING, ProbeOptions


@click.command()
@click.argument("model", default=EMBEDDED)
@takes(LabelledOptions(), "labelled")
@takes(ProbeOptions(), "probing")
@takes(TextOptions(), "reading", only=("batch_size",), changed={"batch_size": "Texts in a batch."})
@takes(PROBE_TRAINING, "training", only=("seed",), changed={"seed": "Of the cross-validation folds."})
@result_folder("A new folder for probe.json and its picture.", new=True)
@takes(PlaceOptions(), "place")
@figures
@as_json
@plain
def probe(model: str, as_json: bool, **asked: Any) -> None:
    """Read a label off every layer's states with a logistic regression, cross-validated."""
    loading(model)
    from linscore.jobs.probe import run_probe
    from linscore.pictures import file_of
    from linscore.probing.table import probe_table
    from linscore.terminal import show

    probing = run_probe(model, **asked)
    if as_json:
        click.echo(probing.to_json(), nl=False)
        return
    show(probe_table(probing))
    if asked["out"] is not None:
        out = asked["out"]
        click.echo(f"probe    {out}/probe.json\npicture  {out}/{file_of('probe')}")
