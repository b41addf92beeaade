"""Reading: every source gives the texts that were put in, and every refusal says in one line what to do."""

import io
import json
import os
import sys

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from linscore.errors import LinscoreError
from linscore.text import documents
from linscore.text.documents import read_documents
from linscore.text.hub import read_dataset

TEXTS = ["first\ntext", "", "grüße, Ω", '"quoted" [x], ]']


def texts_of(found):
    return [text if isinstance(text, str) else "".join(text) for text in found]


def write_parquet(path, texts, **options):
    pyarrow.parquet.write_table(pyarrow.table({"n": list(range(len(texts))), "text": texts}), path, **options)


def test_a_plain_file_is_one_document_with_its_line_ends_kept(tmp_path):
    (tmp_path / "a.md").write_bytes("one\r\ntwo\n\nΩ".encode())
    assert texts_of(read_documents(tmp_path / "a.md")) == ["one\r\ntwo\n\nΩ"]
    assert texts_of(read_documents(str(tmp_path / "a.md"))) == ["one\r\ntwo\n\nΩ"]


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 7])
def test_a_big_file_comes_in_pieces_that_may_cut_a_character(tmp_path, monkeypatch, read_bytes):
    monkeypatch.setattr(documents, "READ_BYTES", read_bytes)
    (tmp_path / "a.txt").write_bytes("\ufeffaΩ→😀 b".encode())
    (document,) = read_documents(tmp_path / "a.txt")
    pieces = list(document)
    assert "".join(pieces) == "aΩ→😀 b"
    assert len(pieces) > 1


def test_jsonl_gives_a_document_per_line(tmp_path):
    lines = [json.dumps({"id": 1, "text": text}) for text in TEXTS]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join([*lines, "", json.dumps({"text": None})]), encoding="utf-8")
    assert texts_of(read_documents(tmp_path / "a.jsonl")) == [*TEXTS, ""]


@pytest.mark.parametrize("read_bytes", [1, 5, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: {"id": [1, {"text": 2}], "text": text}])
def test_json_gives_a_document_per_item(tmp_path, monkeypatch, wrap, indent, read_bytes):
    monkeypatch.setattr(documents, "READ_BYTES", read_bytes)
    written = json.dumps([wrap(text) for text in TEXTS], indent=indent, ensure_ascii=False)
    (tmp_path / "a.json").write_text(f" {written}\n", encoding="utf-8")
    assert texts_of(read_documents(tmp_path / "a.json")) == TEXTS


def test_half_a_surrogate_pair_does_not_reach_the_tokenizer(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x \\ud83d y"}', encoding="utf-8")
    (text,) = read_documents(tmp_path / "a.jsonl")
    assert text == "x ? y"


def test_parquet_gives_a_document_per_row_of_every_row_group(tmp_path):
    write_parquet(tmp_path / "a.parquet", [*TEXTS, None] * 3, row_group_size=2)
    assert texts_of(read_documents(tmp_path / "a.parquet")) == [*TEXTS, ""] * 3


def test_a_folder_gives_its_files_in_order_without_hidden_and_binary_ones(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "z").mkdir()
    contents = {
        "b/two.txt": b"two",
        "a.py": b"one",
        "c.jsonl": b'{"text": "three"}\n{"text": "four"}\n',
        "d.json": b'["five", "six"]',
        "e.json": b'{"setting": 1}',
        "z/last": "ü".encode(),
        ".hidden": b"hidden",
        "b/.git/config": b"hidden",
        "image.png": b"\x89PNG\xff\xfe",
        "zeros.bin": b"a\0b",
        "empty.txt": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    write_parquet(tmp_path / "f.parquet", ["seven"])
    expected = ["one", "two", "three", "four", "five", "six", '{"setting": 1}', "seven", "ü"]
    said = []
    assert texts_of(read_documents(tmp_path, said.append)) == expected
    assert ["image.png" in said[0], "zeros.bin" in said[1]] == [True, True]


@pytest.mark.parametrize("stdin", [io.StringIO("from a\nüser"), io.TextIOWrapper(io.BytesIO("from a\nüser".encode()))])
def test_a_dash_reads_standard_input_as_one_document(monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert texts_of(read_documents("-")) == ["from a\nüser"]


def test_a_dataset_is_streamed_from_a_local_folder(tmp_path):
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS)
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "test.jsonl").write_text('{"text": "held out"}', encoding="utf-8")
    assert list(read_dataset(str(tmp_path))) == TEXTS
    assert list(read_dataset(f"{tmp_path}::test")) == ["held out"]


def test_a_dataset_name_carries_config_and_split(monkeypatch):
    asked = []
    rows = datasets.Dataset.from_dict({"text": ["x"]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **named: asked.append((given, named)) or rows)
    for name in ("owner/name", "owner/name:config", "owner/name:config:test"):
        assert list(read_dataset(name)) == ["x"]
    assert [given for given, _ in asked] == [("owner/name", None), ("owner/name", "config"), ("owner/name", "config")]
    assert [named["split"] for _, named in asked] == ["train", "train", "test"]
    assert all(named["streaming"] for _, named in asked)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty: give"),
        ("a.txt", b"caf\xe9", "a.txt is not UTF-8 text: convert"),
        ("a.txt", "utf sixteen".encode("utf-16-le"), "a.txt holds zero bytes, so it is not UTF-8 text: convert"),
        ("a.txt", b"cut \xe2\x86", "a.txt is not UTF-8 text: convert"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": \n',
            'a.jsonl, line 2, is not JSON: every line must be an object with a "',
        ),
        ("a.jsonl", b'\n{"text": "\xff"}\n', "a.jsonl, line 2, is not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1, is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n{"body": "x"}', 'a.jsonl, line 3, has no "text": give an object'),
        ("a.jsonl", b'{"text": 1}', 'a.jsonl, line 1, has no "text"'),
        ("a.jsonl", b'"x"', 'a.jsonl, line 1, has no "text"'),
        ("a.json", b'["x", {"body": 1}]', 'a.json, item 2, has no "text"'),
        ("a.json", b'{"text": "x"}', "a.json is not a JSON list of texts: write one, or name it .jsonl"),
        ("a.json", b'["x", "y"', "a.json is not a JSON list of texts"),
        ("a.json", b'["x" "y"]', "a.json is not a JSON list of texts"),
        ("a.json", b'["x"] trailing', "a.json is not a JSON list of texts"),
        ("a.parquet", b"PAR1 not really", "a.parquet cannot be read as parquet: write"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LinscoreError) as refusal:
        texts_of(read_documents(tmp_path / name))
    assert str(refusal.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(refusal.value)


def test_a_json_file_that_is_no_list_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "READ_BYTES", 2)
    (tmp_path / "a.json").write_bytes(b'{"a": "b"} \xff')
    with pytest.raises(LinscoreError, match="is not a JSON list"):  # and not: is not UTF-8
        list(read_documents(tmp_path / "a.json"))


def test_a_parquet_file_without_text_names_its_columns(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(LinscoreError, match='has no column "text" but id, body: rename'):
        list(read_documents(tmp_path / "a.parquet"))


def test_a_missing_path_is_refused_at_the_call(tmp_path):
    with pytest.raises(LinscoreError, match="nowhere does not exist: give a text file"):
        read_documents(tmp_path / "nowhere")


def test_a_folder_without_text_is_refused_at_the_call(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\xff\xd8")
    (tmp_path / ".hidden").write_text("hidden")
    with pytest.raises(LinscoreError, match="holds no readable text file: give"):
        read_documents(tmp_path)


@pytest.mark.parametrize("name", ["a:b:c:d", "", ":config"])
def test_a_dataset_name_of_another_form_is_refused(name):
    with pytest.raises(LinscoreError, match="is not NAME, NAME:CONFIG or NAME:CONFIG:SPLIT: write"):
        read_dataset(name)


def test_a_dataset_that_cannot_be_reached_is_refused_in_one_line(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route\n  to host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(LinscoreError, match=r"^dataset owner/name cannot be loaded \(no route to host\): check"):
        read_dataset("owner/name")


def test_a_dataset_without_text_names_its_columns(monkeypatch):
    rows = datasets.Dataset.from_dict({"body": ["x"]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(LinscoreError, match='dataset owner/name has no column "text" but body: rename'):
        read_dataset("owner/name")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(LinscoreError, match="is no regular file"):
        read_documents(tmp_path / "pipe.txt")
