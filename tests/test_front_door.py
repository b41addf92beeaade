"""`import linscore`, `import linscore_kernels`: every public name, and nothing heavy before one is used."""

import ast
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import linscore_kernels
import pytest

import linscore

HEAVY = {"torch", "transformers", "triton", "numpy", "sklearn", "matplotlib"}
ASKED_FOR = HEAVY | {"safetensors", "huggingface_hub", "tokenizers", "rich", "click", "yaml"}
each_package = pytest.mark.parametrize("package", [linscore, linscore_kernels], ids=lambda package: package.__name__)


def for_type_checkers(package):
    """Public names and their modules, as the block that only type checkers read imports them."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: "." * node.level + node.module for node in block.body for alias in node.names}


@each_package
def test_type_checkers_and_python_see_the_same(package):
    wanted = for_type_checkers(package)
    assert package.__all__ == sorted(wanted)
    assert set(package.__all__) <= set(dir(package))
    for name, module in wanted.items():
        assert getattr(package, name) is getattr(import_module(module, package.__name__), name)


@each_package
def test_no_module_hides_a_name(package):
    """Importing `linscore.x` from anywhere sets the attribute x to the module."""
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("linscore", ASKED_FOR),
        ("linscore.errors", HEAVY),
        ("linscore.cli", HEAVY),
        ("linscore_kernels", ASKED_FOR),
        ("linscore.jobs.rank", {"transformers"}),
    ],
)
def test_nothing_heavy_is_imported_for_help_or_a_report(module, heavy):
    code = f"import {module}, sys; print(*({heavy} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@each_package
def test_a_name_that_is_not_there(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'scores'"):
        package.scores  # noqa: B018


def test_one_class_of_errors_whichever_layer_notices():
    assert linscore.LinscoreError is linscore_kernels.LinscoreError
