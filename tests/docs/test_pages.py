"""Every page's commands and examples run, in the order that a reader would type them, and print what the page shows."""

import os
from pathlib import Path

import pytest
from pages import Runner, alike, blocks

from linscore import progress

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "docs/adapters.md": "tests/test_adapters.py",
    "docs/names/index.md": "test_examples.py",
    "docs/python.md": "",
}  # pages that have a test of their own
PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if path.relative_to(ROOT).as_posix() not in ELSEWHERE and any(one.kind != "text" for one in blocks(path))
]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scores():
    """What pages begin with, and share."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_runs_and_prints_what_it_shows(page, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", float("inf"))
    monkeypatch.chdir(tmp_path)
    runner = Runner(tmp_path, scores)
    for block in blocks(page):
        printed = runner.run(block, page)
        if block.shown is not None:
            where = os.path.relpath(page, ROOT)
            assert alike(block.shown, printed), f"{where}:{block.line} shows\n{block.shown}\nand prints\n{printed}"
