"""Imports between rooms run one way, in the order that docs/architecture.md gives."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels/linscore_kernels"
IN_FOLDERS = set(ROOT.glob("linscore/models/linear_*.py"))  # of saved models
FORMER = {"former"}  # modules that only say where their names are now, for one release


def order_of_rooms() -> list[str]:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    line = re.search(r"^\s*(kernels [\w |]+)$", text, re.MULTILINE)
    assert line, "docs/architecture.md says no order of rooms"
    return line[1].replace("|", " ").split()


def room_of(module: str) -> str | None:
    """The room that a dotted name lies in; None outside the project, and for the front door itself."""
    top, *rest = module.split(".")
    if top == "linscore_kernels":
        return "kernels"
    return rest[0] if top == "linscore" and rest else None


def imports_of(path: Path) -> Iterator[str]:
    """Every module of the project that a file names in an import, in functions and for types too."""
    # What may be loaded under another name than its folder's names itself by dots.
    alone = KERNELS in path.parents or path in IN_FOLDERS
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert bool(node.level) <= alone, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names if not node.level)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def rooms() -> dict[str, list[Path]]:
    """Every room with its files, as they are on disk."""
    found: dict[str, list[Path]] = {"kernels": sorted(KERNELS.rglob("*.py"))}
    for path in sorted((ROOT / "linscore").rglob("*.py")):
        room = path.relative_to(ROOT / "linscore").parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__", *FORMER):
            found.setdefault(room, []).append(path)
    return found


def test_every_room_is_in_the_order_and_every_name_in_the_order_is_a_room():
    assert sorted(order_of_rooms()) == sorted(rooms())


@pytest.mark.slow
@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_imports_only_what_stands_left_of_it(room):
    order = order_of_rooms()
    allowed = {*order[: order.index(room) + 1]}
    for path in rooms()[room]:
        for module in imports_of(path):
            found = room_of(module)
            assert found is None or found in allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_kernels_import_torch_and_triton_alone_and_themselves_by_dots():
    allowed = sys.stdlib_module_names | {
        "torch",
        "triton",
        "numpy",
    }  # NumPy where it is there: tests/kernels/test_alone
    for path in KERNELS.rglob("*.py"):
        assert {module.split(".")[0] for module in imports_of(path)} <= allowed, path


def test_packages_say_one_line_and_nothing_else():
    doors = {"linscore", "linscore_kernels", "cli"}  # public names, and the command line's entry point
    for path in [*(ROOT / "linscore").rglob("__init__.py"), *(ROOT / "kernels").rglob("__init__.py")]:
        if path.parent.name not in doors:
            (line,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert isinstance(line, ast.Expr), path


@pytest.mark.slow
def test_files_and_functions_stay_short():
    for path in [*ROOT.glob("linscore/**/*.py"), *ROOT.glob("kernels/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                examples = (ast.get_docstring(node, clean=False) or "").partition("Examples:")[2].count("\n")
                assert node.end_lineno - node.lineno - examples < 50, f"{path}: {node.name}"


def test_lines_that_obey_a_decision_name_one_that_is_there():
    text = (ROOT / "docs/decisions.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^###? (.+)$", text, re.MULTILINE))
    named = set()
    for path in [*ROOT.glob("linscore/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        source = re.sub(r"\n#? *", " ", path.read_text(encoding="utf-8"))
        named |= {match[1] for match in re.finditer(r"\bdecisions: ([^)\n]+?)(?=[).\n]|  )", source)}
    assert len(named) >= 10
    assert named <= headings, named - headings


def test_the_library_names_arguments_and_only_the_command_line_names_options():
    for path in (ROOT / "linscore").rglob("*.py"):
        if path.parent.name != "cli":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not re.match(r"--[a-z]", node.value), f"{path}:{node.lineno}"
