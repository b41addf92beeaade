"""Which launch a width gets."""

from __future__ import annotations

from linscore_kernels.tuning import parameters as launch_parameters
from linscore_kernels.tuning.parameters import LADDER, Entry, launch_for, torch_is_faster


def test_widths_follow_the_nearest_of_the_ladder(monkeypatch):
    table = {90: {"single": Entry(launch_for(90, 4096, "single"), (64, 768))}}
    monkeypatch.setattr(launch_parameters, "launch_table", lambda: table)
    found = [d for d in (40, 64, 70, 96, 768, 800, 1024) if torch_is_faster(90, d, "single")]
    assert found == [64, 70, 768, 800]


def test_no_kernel_is_in_use_that_nothing_has_measured():
    entries = [entry for paths in launch_parameters.launch_table().values() for entry in paths.values()]
    assert {(entry.launch.kernel, entry.launch.group) for entry in entries} == {("tile", 8)}


def test_the_ladder_has_the_widths_of_models():
    assert {32, 768, 1024, 3072, 4096, 16384} <= set(LADDER)
    assert list(LADDER) == sorted(set(LADDER))
