"""Launches of the fast path, measured as `linscore bench --tune` does, into a table beside the results; winners again.

The table that is installed stays as it is: whoever likes what was found copies it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from measure import compare
from shapes import DEVICE, SHAPES

from linscore.machine.timing import clock

if DEVICE.type != "cuda":
    pytest.skip("launches are tuned on the GPU that runs them", allow_module_level=True)

from linscore_kernels.launching import capability
from linscore_kernels.tuning.cases import DTYPE, Case, product_of
from linscore_kernels.tuning.parameters import nearest_entry, parse
from linscore_kernels.tuning.tune import TOKENS, describe, tune, write_table

GROUP = "tuning"
PATH = "single"
WINNERS = 5.0  # seconds kept for each winner, as its marker says
pytestmark = pytest.mark.benchmark(timer=clock)


def table_file(results_file: Path | None, tmp_path: Path) -> Path:
    return (results_file.parent if results_file else tmp_path) / "table.json"


def test_tuning(write_row, results_file, seconds_left, tmp_path):
    table = table_file(results_file, tmp_path)
    table.unlink(missing_ok=True)  # of an earlier run

    def measured(found: dict[str, Any]) -> None:
        write_table(found, table)
        write_row({"group": GROUP, "status": "passed"} | last_width(found))

    tune(DEVICE, SHAPES.tuned, (PATH,), patience=seconds_left - WINNERS * len(SHAPES.tuned), measured=measured)


def last_width(found: dict[str, Any]) -> dict[str, Any]:
    """Name and figures of the row of the width that was measured last."""
    entry = found["paths"][PATH]
    width = list(entry["seconds"])[-1]
    times = {f"{name}, ms": 1e3 * seconds for name, seconds in entry["seconds"][width].items()}
    skipped = {f"{name} skipped": reason[:120] for name, reason in entry["skipped"][width].items()}
    return {"name": f"{PATH}, d = {width}, {found['tokens']:,} tokens", "figures": times | skipped}


@pytest.mark.seconds(gpu=5, cpu=0)
@pytest.mark.parametrize("d", SHAPES.tuned)
def test_the_winner_again(benchmark, results_file, tmp_path, d):
    benchmark.group = "tuning, winners again"
    table, architecture = table_file(results_file, tmp_path), capability(torch.empty(0, device=DEVICE))
    known = nearest_entry(architecture, PATH).launch
    winner = parse(json.loads(table.read_text(encoding="utf-8"))[str(architecture)][PATH]).launch
    product = product_of(Case(PATH, d, TOKENS, DEVICE, known.flush))
    peers = {f"in use: {describe(known)}": lambda: product.run(known), "torch": lambda: product.run(None)}
    name = f"d = {d}, {TOKENS:,} tokens: {describe(winner)}"
    compare(benchmark, lambda: product.run(winner), peers, shape=name, dtype=DTYPE)
