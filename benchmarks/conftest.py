"""Machine and versions go into every result; the comparisons are printed as a Markdown table at the end."""

import platform

import pytest
import torch
from linscore_kernels import choose_backend

from linscore.allocator import keep_freed_memory
from linscore.score import versions

keep_freed_memory()  # for the peers as well: each is measured at its best


def pytest_benchmark_update_machine_info(config, machine_info):  # noqa: ARG001
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["backend"] = choose_backend("cuda" if torch.cuda.is_available() else "cpu")
    machine_info["versions"] = versions()
    machine_info["cpu_brand"] = machine_info.get("cpu", {}).get("brand_raw", platform.processor())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.benchmarks:
        return
    terminalreporter.section("comparisons")
    for bench in session.benchmarks:
        terminalreporter.write_line(f"{bench.name}: median {bench.stats.median:.4f} s")
        for name, value in bench.extra_info.items():
            terminalreporter.write_line(f"    {name}: {value}")
