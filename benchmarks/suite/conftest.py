"""Hooks: every test becomes a row of the results, and none begins that the time left does not allow.

`run.py` says by the environment where the rows go and when to stop; without it they are only printed.
"""

import gc
import os
import time
from pathlib import Path

import pytest
import results
import torch
from shapes import DEVICE

from linscore.machine.allocator import keep_freed_memory

RESULTS = os.environ.get("LINSCORE_RESULTS_FILE")
DEADLINE = float(os.environ.get("LINSCORE_BENCH_DEADLINE", "inf"))  # Unix time
rows: list[results.Row] = []


def pytest_configure(config):
    config.addinivalue_line("markers", "seconds(gpu, cpu): how long a benchmark takes at most, for the time budget")
    config.addinivalue_line("markers", "as_python_does: freed memory is not kept, unlike on the command line")


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("seconds")
    cost = marker.kwargs["gpu" if DEVICE.type == "cuda" else "cpu"] if marker else 3
    if time.time() + cost > DEADLINE:
        pytest.skip(results.NO_TIME)
    if not item.get_closest_marker("as_python_does"):  # it cannot be undone, so those come first in their process
        keep_freed_memory()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "teardown" or (report.when == "setup" and report.passed):
        return
    if report.skipped and results.NO_TIME not in str(report.longrepr):
        return  # not meant for this device
    row = results.row_of(item, report, call)
    rows.append(row)
    if RESULTS:
        results.add(Path(RESULTS), row)


@pytest.fixture(autouse=True)
def _memory_of_its_own():
    """Each benchmark begins with the GPU's memory free."""
    yield
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def pytest_terminal_summary(terminalreporter):
    if rows:
        terminalreporter.section("results")
        terminalreporter.write_line(results.tables(rows))
