"""The table of a series."""

import os

import numpy as np
import pytest
from rich.console import Console

from linscore.dynamics.table import dynamics_table

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_table_has_a_row_per_checkpoint_and_the_doubts(done):
    console = Console(width=500, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(dynamics_table(done[1]))
    shown = console.export_text()
    heldout = np.mean(done[1].scored[0].blocks["linearity_heldout"])
    [row] = [line for line in shown.splitlines() if "checkpoint-9" in line]
    assert f"{heldout:.4f}" in row
    assert shown.count("checkpoint-10") == 1
    assert done[1].scored[0].warnings == done[1].scored[1].warnings  # few tokens for 32 features in both
    assert all(shown.count(message[:40]) == 1 for message in done[1].scored[0].warnings)
