"""Labelled texts from files of every format."""

from pathlib import Path

import pytest
from labelled import labelled, written

from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")

FIXTURES = Path(__file__).parents[1] / "fixtures"  # in the schemata of SuperGLUE's files


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_texts_of_several_columns_from_every_format(tmp_path, kind):
    found = labelled(written(tmp_path, kind), text_field="premise, hypothesis")
    assert found.texts == [f"x = {n}\ny = {n % 7}" for n in range(24)]
    assert found.labels == ["even", "odd"] * 12
    alone = labelled(written(tmp_path, kind), text_field="hypothesis", label_field="premise")
    assert (alone.texts[3], alone.labels[3]) == ("y = 3", "x = 3")


def test_labels_may_be_integers_and_booleans(tmp_path):
    rows = [{"text": "a", "label": True}, {"text": "b\ud800", "label": 0}]
    assert labelled(written(tmp_path, "jsonl", rows)) == (["a", "b?"], ["True", "0"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a", "label": 1}], "no column 'text' but question, label: give `text_field`"),
        ([{"text": "a", "answer": 1}], "no column 'label' but text, answer"),
        ([{"text": "a", "label": 1}, {"text": None, "label": 1}], "row 2: its 'text' is no text but None"),
        ([{"text": "a", "label": 1}, {"text": "b"}], "row 2: its 'label' is None"),
        ([{"text": "a", "label": 0.5}], "row 1: its 'label' is 0.5"),
        ([], "holds no rows"),
        (["text"], "holds no rows"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(LinscoreError, match=message):
        labelled(written(tmp_path, "json", rows))


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", "{"), ("a.parquet", "x"), ("a.csv", "\xff"), ("a.json", "1")]
)
def test_files_that_cannot_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(LinscoreError, match=r"a\.\w+ (cannot be read|holds no rows)"):
        labelled(tmp_path / name)
    with pytest.raises(LinscoreError, match="is no regular file"):
        labelled(tmp_path)


def test_rows_as_published_can_be_read():
    bank = labelled(FIXTURES / "cb.jsonl", text_field="premise,hypothesis")
    assert {label: bank.labels.count(label) for label in set(bank.labels)} == {
        "contradiction": 8,
        "entailment": 12,
        "neutral": 4,
    }
    questions = labelled(FIXTURES / "boolq.jsonl", text_field="question,passage", label_field="answer")
    assert len(questions.texts) == 24
    assert set(questions.labels) == {"True", "False"}
