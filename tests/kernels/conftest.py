"""What tests of several kernels share."""

import os

import pytest
from compiled_kernels import compiled


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, dict]:
    """What came out of compiling every case of `compile_cases`, once per run, whatever the number of its processes.

    Triton knows its kernels by their source, target and its own version, and compiles again what has changed since the
    run before.
    """
    folder = tmp_path_factory.getbasetemp()
    run = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    kept = getattr(pytestconfig, "cache", None)  # None where pytest is to keep nothing
    return compiled(run, run / "triton" if kept is None else kept.mkdir("triton"))
