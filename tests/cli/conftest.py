"""A tiny model, a text of its words, and a score of both."""

import shutil

import pytest
from tiny_models import tiny
from words import tokenizer, words

from linscore.jobs.score import run_score
from linscore.options.text import TextOptions


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(words(2000))
    return str(path)


@pytest.fixture(scope="module")
def score_once(tmp_path_factory, model_folder, text):
    """What `score` saves of model and text, for tests to have a copy of."""
    out = tmp_path_factory.mktemp("scores") / "out"
    run_score(model_folder, text=TextOptions(text=text, seq_len=16), out=str(out))
    return out


@pytest.fixture
def scored(score_once, tmp_path):
    return str(shutil.copytree(score_once, tmp_path / "out"))
