"""Names in files: as typed, but absolute ones as they lie from the file's folder, and absolute again once read."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from linscore import load_moments, save_moments
from linscore.files.json_file import json_text, read_json
from linscore.files.places import read_places, within, written_places


@dataclass(frozen=True)
class Named:
    model: str
    text: str | None
    moments: dict[str, Any]
    checkpoints: list[str]
    classes: list[str]


@pytest.mark.parametrize(
    ("typed", "folder", "written"),
    [
        ("/r/models/tiny", "/r/scores/tiny", "./../../models/tiny"),
        ("/r/scores", "/r/scores/tiny", "./.."),
        ("/r/scores/tiny", "/r/scores/tiny", "./../tiny"),
        ("/r/scores/tiny/model", "/r/scores/tiny/", "./../tiny/model"),
        ("/models/a b", "/", "./../models/a b"),
        ("someone/model", "/r", "someone/model"),
        ("../model", "/r", "../model"),
        ("./model", "/r", "./model"),
        (".../model", "/r", ".../model"),
        ("embedded", "/r", "embedded"),
        ("-", "/r", "-"),
        ("", "/r", ""),
    ],
)
def test_a_name_is_written_and_is_read_as_it_was_typed(typed, folder, written):
    assert written_places({"model": typed}, folder) == {"model": written}
    assert read_places({"model": written}, folder) == {"model": typed}


def test_what_reads_like_a_place_in_a_file_is_meant_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = written_places({"text": "./../corpus"}, "scores/x")
    assert written == {"text": "./../../../corpus"}
    assert read_places(written, "scores/x") == {"text": str(tmp_path.parent / "corpus")}


def test_absolute_names_of_former_files_have_one_spelling():
    assert read_places({"text": "/a//b/../c/"}, "/r") == {"text": "/a/c"}


def test_models_and_texts_have_these_keys():
    keys = ("model", "teacher", "text", "dataset", "data", "scored_text", "base_model_name_or_path")
    assert written_places(dict.fromkeys(keys, "/r/m"), "/r/x") == dict.fromkeys(keys, "./../m")


def test_other_keys_and_what_is_no_string_stay():
    data = {"classes": ["/r", "./.."], "message": "/r", "model": {"layers": 3, "text": None}, "loss": 0.5}
    assert written_places(data, "/r/x") == data
    assert read_places(data, "/r/x") == data


def test_a_file_that_moved_with_what_it_names_names_it_there(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    names = [str(old / "a"), "embedded", "b"]
    one = Named(str(old / "model"), str(old / "text"), {"text": str(old / "text"), "tokens": 5}, names, [str(old)])
    (old / "out").mkdir(parents=True)
    text = json_text(one.__dict__, old / "out")
    assert text.count(str(tmp_path)) == 1  # of the classes, which are no places
    (old / "out" / "one.json").write_text(text)
    shutil.move(old, new)
    there = [str(new / "a"), "embedded", "b"]
    moved = Named(str(new / "model"), str(new / "text"), {"text": str(new / "text"), "tokens": 5}, there, [str(old)])
    assert read_json(new / "out" / "one.json", Named, damaged="") == moved


def test_facts_of_moments_are_read_as_they_were_given(tmp_path):
    path, model = tmp_path / "moments.safetensors", str(tmp_path / "models" / "tiny")
    save_moments(path, {}, model=model, text="embedded", tokens=3)
    assert str(tmp_path).encode() not in path.read_bytes()
    assert load_moments(path)[1] == {"model": model, "text": "embedded", "tokens": 3}


def test_a_line_calls_a_place_by_its_last_part():
    assert within("left out: /r/corpus/a/b.gz is damaged", "/r/corpus/") == "left out: corpus/a/b.gz is damaged"
    assert within("left out: corpus/b.gz", "corpus") == "left out: corpus/b.gz"
    assert within("a/b", str(Path("/"))) == "a/b"
