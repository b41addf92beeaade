"""What several files of job tests share."""

import shutil

import pytest
import yaml
from distil_job import PROJECTION, save
from tiny_models import tiny
from train_job import TINY, long_text
from transformers import AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.surgery.drop import drop
from linscore.surgery.record import Replacement


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A tiny decoder `original`, `cut` without its block 1 (dropped), `fused` (block 0's projection), and a text."""
    folder = tmp_path_factory.mktemp("models")
    original, tokenizer = tiny("llama", vocab_size=2048), AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    original.save_pretrained(folder / "original")
    tokenizer.save_pretrained(folder / "original")
    for name, form, parameters in (("cut", "dropped", []), ("fused", "fused", [PROJECTION])):
        save(folder / name, drop(original, [1]), folder / "original", Replacement("1", form, 0, parameters))
    (folder / "text.txt").write_text("".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(40)))
    return folder


@pytest.fixture
def place(models, tmp_path):
    """Copies of them, to be used up."""
    return shutil.copytree(models, tmp_path / "place")


@pytest.fixture
def config(tmp_path):
    """The recipe of a tiny run, in a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "text": long_text(tmp_path)}), encoding="utf-8")
    return path
