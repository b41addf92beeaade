"""Rows of files as people publish them."""

import json

import pytest

from linscore.errors import LinscoreError
from linscore.text import records as rows
from linscore.text.labelled import preferences
from linscore.text.records import read_dataset_rows, read_rows
from linscore.text.source import Source

MULTIRC = {
    "idx": 7,
    "passage": {
        "text": "Ann has a cat.",
        "questions": [
            {
                "question": "Who?",
                "idx": 0,
                "answers": [{"text": "Ann", "idx": 0, "label": 1}, {"text": "Bob", "idx": 1, "label": 0}],
            },
            {"question": "What?", "idx": 1, "answers": [{"text": "A cat", "idx": 2, "label": 1}]},
        ],
    },
}


def test_multirc_becomes_one_row_for_each_answer(tmp_path):
    path = tmp_path / "multirc.jsonl"
    path.write_text(json.dumps(MULTIRC) + "\n", encoding="utf-8")
    found = read_rows(path)
    assert [(row["question"], row["answer"], row["label"]) for row in found] == [
        ("Who?", "Ann", 1),
        ("Who?", "Bob", 0),
        ("What?", "A cat", 1),
    ]
    assert {row["paragraph"] for row in found} == {"Ann has a cat."}
    assert found[1]["idx"] == {"paragraph": 7, "question": 0, "answer": 1}


def test_a_passage_that_is_a_text_stays(tmp_path):
    path = tmp_path / "boolq.jsonl"
    path.write_text('{"passage": "p", "question": "q", "label": true}\n', encoding="utf-8")
    assert read_rows(path) == [{"passage": "p", "question": "q", "label": True}]


def test_pairs_out_of_several_columns(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "p", "good": "g", "bad": "b"}\n', encoding="utf-8")
    found = preferences(Source(str(path), None), chosen_field="prompt,good", rejected_field="prompt,bad")
    assert found == (["p\ng"], ["p\nb"])
    with pytest.raises(LinscoreError, match="no column 'chosen' but prompt, good, bad: give `chosen_field`"):
        preferences(Source(str(path), None))


def test_rows_of_a_dataset(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"a": 1, "label": "x"}\n{"a": 2, "label": "y"}\n', encoding="utf-8")
    assert [row["label"] for row in read_dataset_rows(str(tmp_path))] == ["x", "y"]


def test_an_empty_dataset(monkeypatch):
    monkeypatch.setattr(rows, "load_dataset_rows", lambda _name: iter([]))
    with pytest.raises(LinscoreError, match="holds no rows: give another split"):
        read_dataset_rows("some/name::test")


@pytest.mark.parametrize("given", [(None, None), ("a.jsonl", "name")])
def test_one_source_must_be_given(given):
    with pytest.raises(LinscoreError, match="one of them"):
        Source(*given).rows()
