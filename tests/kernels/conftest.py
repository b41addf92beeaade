"""What tests of several kernels share."""

import os

import pytest
from compiled_kernels import compiled


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What came out of compiling every case of `compile_cases`, once per run, whatever the number of its processes."""
    folder = tmp_path_factory.getbasetemp()
    return compiled(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)
