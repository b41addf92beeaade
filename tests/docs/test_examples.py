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


def names_of(module: str) -> list[str]:
    """`__all__` of a module, as it is written: to import it may take a package that is not there."""
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    [names] = [
        one.value for one in ast.parse(source).body if isinstance(one, ast.Assign) and one.targets[0].id == "__all__"
    ]
    return ast.literal_eval(names)


NAMES = [
    f"{package.__name__}.{name}"
    for package in (linscore, linscore_kernels)
    for name in package.__all__
    if not package._HOMES[name].startswith("linscore_kernels")  # the other package's own
]
# Modules whose packages are extras, and what they name.
BESIDE = {
    "linscore.sklearn": "sklearn",
    "linscore.torchmetrics": "torchmetrics",
    "linscore.compat.llm_microscope": None,
}
NAMES += [f"{module}.{name}" for module in BESIDE for name in names_of(module)]
pytestmark = pytest.mark.usefixtures("one_thread")


def docstring(full: str) -> str:
    """What is said below the definition of a public name; of a constant only its module's source knows."""
    package, _, name = full.rpartition(".")
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
    if (extra := BESIDE.get(name.rpartition(".")[0])) is not None:
        pytest.importorskip(extra)
    text = docstring(name)
    head, _, examples = text.partition("\nExamples:\n")
    assert examples, f"{name} has no example"
    test = doctest.DocTestParser().get_doctest(examples, dict(shared), name, None, None)
    assert test.examples
    assert ">>>" not in head
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert said == [], "".join(said)
