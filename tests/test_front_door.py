"""`import linscore`: every public name, and nothing heavy before one is used."""

import ast
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import linscore

HEAVY = {"torch", "transformers", "triton", "numpy", "sklearn", "matplotlib"}


def for_type_checkers():
    """Public names and their modules, as the block that only type checkers read imports them."""
    tree = ast.parse(Path(linscore.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_type_checkers_and_python_see_the_same():
    wanted = for_type_checkers()
    assert linscore.__all__ == sorted(wanted)
    assert set(linscore.__all__) <= set(dir(linscore))
    for name, module in wanted.items():
        assert getattr(linscore, name) is getattr(import_module(module), name)


def test_no_module_hides_a_name():
    """Importing `linscore.x` from anywhere sets the attribute x to the module."""
    modules = {module.name for module in pkgutil.iter_modules(linscore.__path__)}
    assert not modules & set(linscore.__all__)


@pytest.mark.parametrize(
    ("module", "heavy"), [("linscore", HEAVY), ("linscore.cli", HEAVY), ("linscore.jobs.rank", {"transformers"})]
)
def test_nothing_heavy_is_imported_for_help_or_a_report(module, heavy):
    code = f"import {module}, sys; print(*({heavy} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        linscore.scores  # noqa: B018
