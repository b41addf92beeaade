"""cuBLAS's emulation of float32 (BF16x9) and of float64 (Ozaki) on tensor cores, beside our exact path.

decisions: cuBLAS's emulation. Where a GPU or a cuBLAS has none, the times with and without are the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import DEVICE, SHAPES

from linscore.machine.kernel_cases import gram_case
from linscore.machine.timing import interleaved

GROUP = "exact, by cuBLAS's emulation"
D, TOKENS = SHAPES.widths[0], SHAPES.tokens
VARIABLES = {"float32": "CUBLAS_EMULATE_SINGLE_PRECISION", "float64": "CUBLAS_EMULATE_DOUBLE_PRECISION"}


@pytest.mark.seconds(gpu=25, cpu=0)
@pytest.mark.parametrize("dtype", VARIABLES)
def test_products_with_and_without_emulation(record_property, dtype):
    ours = interleaved(gram_case(D, TOKENS, SHAPES.dtype, DEVICE, precision="exact").ours, {}, rounds=5).median
    record_property("shape", f"d = {D}, {TOKENS:,} tokens")
    record_property("gram, exact: ms", 1e3 * ours)
    for name, value in (("as it is", "0"), ("emulated", "1")):
        found = in_a_process({VARIABLES[dtype]: value, "CUBLAS_EMULATION_STRATEGY": "performant"}, dtype)
        record_property(f"x.T @ [x δ] in {dtype}, {name}: ms", 1e3 * found["seconds"])
        record_property(f"x.T @ [x δ] in {dtype}, {name}: error", found["error"])


def in_a_process(variables: dict[str, str], dtype: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("emulated.py")), DEVICE.type, dtype, str(TOKENS), str(D)]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)
