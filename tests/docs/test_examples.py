"""Every public name has an example in its docstring, and does there what the example says."""

import ast
import doctest
import inspect
import itertools
from importlib import import_module
from pathlib import Path

import linscore_kernels
import pytest
from pages import Runner, blocks

import linscore
from linscore import progress

ROOT = Path(__file__).parents[2]
NAMES = [
    f"{package.__name__}.{name}"
    for package in (linscore, linscore_kernels)
    for name in package.__all__
    if not package._HOMES[name].startswith("linscore_kernels")  # the other package's own
]
pytestmark = pytest.mark.usefixtures("one_thread")


def docstring(full: str) -> str:
    """What is said below the definition of a public name; of a constant only its module's source knows."""
    package, name = full.split(".")
    value = getattr(import_module(package), name)
    if callable(value):
        return inspect.getdoc(value) or ""
    path = Path(import_module(import_module(package)._HOMES[name], package).__file__)
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    for above, node in itertools.pairwise(nodes):
        if isinstance(above, ast.Assign) and above.targets[0].id == name and isinstance(node, ast.Expr):
            return inspect.cleandoc(ast.literal_eval(node.value))
    return ""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What docs/names/index.md says that the examples have in common."""
    page = ROOT / "docs/names/index.md"
    runner = Runner(tmp_path_factory.mktemp("names"), {})
    for block in blocks(page):
        runner.run(block, page)
    return runner.names


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_holds(name, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", float("inf"))
    monkeypatch.chdir(tmp_path)
    text = docstring(name)
    head, _, examples = text.partition("\nExamples:\n")
    assert examples, f"{name} has no example"
    test = doctest.DocTestParser().get_doctest(examples, dict(shared), name, None, None)
    assert test.examples
    assert ">>>" not in head
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert said == [], "".join(said)
