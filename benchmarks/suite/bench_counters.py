"""The hardware counters of one launch of `gram`, by Nsight Compute: `python bench_counters.py` is what it watches."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterable
from glob import glob
from pathlib import Path

import pytest
import torch
from linscore_kernels import Pilot, accumulate
from shapes import DEVICE, SHAPES

from linscore.machine.kernel_cases import random_states

GROUP = "counters of one launch"
WIDTH, TOKENS = SHAPES.widths[0], 16_384
PLACES = ("/usr/local/cuda*/bin/ncu", "/opt/nvidia/nsight-compute/*/ncu")
KEPT = (
    "Duration", "SM Frequency", "Compute (SM) Throughput", "SM Busy", "DRAM Throughput", "L2 Hit Rate",
    "Executed Ipc Active", "No Eligible", "Achieved Occupancy", "Registers Per Thread", "Local Spilling Requests",
)  # fmt: skip
# The machine's clocks are not ours to change. The second launch: the first one compiles.
OPTIONS = ("--clock-control", "none", "--set", "full", "--page", "details", "--csv")
ONE = ("--kernel-name", "regex:_gram_kernel", "--launch-skip", "1", "--launch-count", "1")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="counts what a GPU does")
def test_one_gram_launch(record_property, results_file):
    ncu = shutil.which("ncu") or next((found for place in PLACES for found in sorted(glob(place))), None)
    if ncu is None:
        record_property("ncu", "is not installed")
        return
    run = subprocess.run([ncu, *OPTIONS, *ONE, sys.executable, __file__], capture_output=True, text=True, check=False)
    if results_file:
        results_file.with_name("gram-ncu.csv").write_text(run.stdout, encoding="utf-8")
    assert run.returncode == 0, (run.stdout + run.stderr)[-300:]
    found = counters(run.stdout.splitlines())
    assert found, "ncu saw no launch"
    for name, value in found.items():
        record_property(name, value)


def counters(lines: Iterable[str]) -> dict[str, str]:
    """Those of KEPT in ncu's table of details, with their units; other lines stand above the table."""
    table = [line for line in lines if line.startswith('"')]
    rows = {row["Metric Name"]: f"{row['Metric Value']} {row['Metric Unit']}".strip() for row in csv.DictReader(table)}
    return {name: rows[name] for name in KEPT if name in rows}


def launch(times: int = 3) -> None:
    """What is watched."""
    x, y = random_states(WIDTH, TOKENS, SHAPES.dtype, DEVICE)
    pilot = Pilot.choose(x, y)
    assert pilot is not None
    second = torch.zeros(WIDTH, 2 * WIDTH, dtype=torch.float64, device=DEVICE)
    for _ in range(times):
        accumulate(x, y, None, second, pilot=pilot)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    launch()
