"""Every page's commands and examples run, in the order that a reader would type them, and print what the page shows."""

import os
from pathlib import Path

import pytest
from pages import Runner, alike, blocks

from linscore import progress

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"docs/adapters.md": "tests/test_adapters.py", "docs/names/index.md": "test_examples.py"}
# What a page that explains names instead of a job takes for granted: tensors, a text, a loop's data.
GIVEN = """
import torch, transformers
x, x2 = torch.randn(2, 400, 16)
y, y2 = x + torch.randn(400, 16), x2 + torch.randn(400, 16)
mask = torch.ones(400, dtype=torch.bool)
text = "def add(first, second):\\n    return first + second\\n" * 60
config = transformers.LlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=6, num_attention_heads=2
)
model = transformers.LlamaForCausalLM(config)
batches = heldout_batches = list(torch.randint(64, (4, 4, 32)))
loader = [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in batches]
batch = loader[0]
args = transformers.TrainingArguments("run", use_cpu=True, report_to=[])
data = [{"input_ids": ids, "labels": ids} for ids in batches[0]]
"""
PAGES = [
    path
    for path in [ROOT / "README.md", *sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")])]
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
    if page.name in ("README.md", "python.md"):
        exec(GIVEN, runner.names)
    for block in blocks(page):
        printed = runner.run(block, page)
        if block.shown is not None:
            where = os.path.relpath(page, ROOT)
            assert alike(block.shown, printed), f"{where}:{block.line} shows\n{block.shown}\nand prints\n{printed}"
