"""A tiny model, a text of its words, and a score of both."""

import pytest
from tiny_models import tiny
from words import tokenizer, words


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(words(2000))
    return str(path)


@pytest.fixture
def scored(run, model_folder, text, tmp_path):
    out = str(tmp_path / "out")
    assert run("score", model_folder, "--text", text, "--seq-len", "16", "--out", out)[0] == 0
    return out
