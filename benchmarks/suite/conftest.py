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
from shapes import DEVICE, TINY

from linscore.machine import timing
from linscore.machine.allocator import keep_freed_memory

RESULTS = Path(os.environ["LINSCORE_RESULTS_FILE"]) if "LINSCORE_RESULTS_FILE" in os.environ else None
TOLD = os.environ.get("LINSCORE_BENCH_TOLD")  # a pipe, on which run.py says when to stop, and thereby when to begin
until = {"deadline": float("inf")}  # Unix time
rows: list[results.Row] = []


def pytest_configure(config):
    if TINY:  # so are the products and copies that rates come from
        timing.SIDES, timing.COPY_BYTES, timing.SAMPLE_SECONDS = {DEVICE.type: (128,)}, {DEVICE.type: 1 << 20}, 1e-4
    config.addinivalue_line("markers", "seconds(gpu, cpu): how long a benchmark takes at most, for the time budget")
    config.addinivalue_line("markers", "further: a check of a shape that matters less")
    config.addinivalue_line("markers", "checkpointing: trains with gradient checkpointing")
    config.addinivalue_line("markers", "as_python_does: freed memory is not kept, unlike on the command line")


def pytest_collectreport(report):
    """A file that cannot be imported is a row, too."""
    if report.failed:
        message = " ".join(str(report.longrepr).split())[-300:]
        keep({"group": "files", "name": report.nodeid, "status": "failed", "message": message})


def pytest_collection_finish():
    """All is imported by now: wait until the step before this one has ended."""
    if TOLD:
        said = os.read(int(TOLD), 100)
        if not said:
            pytest.exit("whoever started this is gone", 0)
        until["deadline"] = float(said)


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("seconds")
    cost = marker.kwargs["gpu" if DEVICE.type == "cuda" else "cpu"] if marker and not TINY else 3
    if time.time() + cost > until["deadline"]:
        pytest.skip(results.NO_TIME)
    if not item.get_closest_marker("as_python_does"):  # it cannot be undone, so those come first in their process
        keep_freed_memory()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "teardown" or (report.when == "setup" and report.passed):
        return
    if report.skipped and report.when == "setup" and results.NO_TIME not in str(report.longrepr):
        return  # not meant for this device
    keep(results.row_of(item, report, call))


def keep(row: results.Row) -> None:
    rows.append(row)
    if RESULTS:
        results.add(RESULTS, row)


@pytest.fixture
def write_row():
    """Writes a row at once, for what is to be kept before its test has ended."""
    return keep


@pytest.fixture
def results_file():
    """Where the rows go, if anywhere; more may be written beside it."""
    return RESULTS


@pytest.fixture
def seconds_left():
    """Until the step ends."""
    return until["deadline"] - time.time()


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
