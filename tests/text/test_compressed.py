"""Compressed texts, other names of JSON lines, and what a folder leaves out: read, or said."""

import bz2
import gzip
import json
import lzma
import zlib

import pytest

from linscore.errors import LinscoreError, LinscoreWarning
from linscore.text import compressed
from linscore.text.compressed import opened
from linscore.text.documents import read_documents
from linscore.text.records import read_rows

TEXTS = ["first\nline", "grüße, Ω"]
LINES = "\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS).encode()
PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def texts_of(found):
    return [text if isinstance(text, str) else "".join(text) for text in found]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".jsonlines", ".NDJSON"])
def test_json_lines_have_several_names(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(LINES)
    assert texts_of(read_documents(tmp_path / f"a{suffix}")) == TEXTS
    assert texts_of(read_documents(tmp_path)) == TEXTS
    assert [row["text"] for row in read_rows(tmp_path / f"a{suffix}")] == TEXTS


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("a.jsonl", LINES, TEXTS), ("a.json", json.dumps(TEXTS).encode(), TEXTS), ("a.txt", "ü\r\n".encode(), ["ü\r\n"])],
)
def test_compressed_texts_are_what_they_were(tmp_path, suffix, name, content, expected):
    (tmp_path / f"{name}{suffix}").write_bytes(PACKED[suffix](content))
    assert texts_of(read_documents(tmp_path / f"{name}{suffix}")) == expected
    assert texts_of(read_documents(tmp_path)) == expected


def test_compressed_rows(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\nx,1\n"))
    assert read_rows(tmp_path / "a.csv.gz") == [{"text": "x", "label": "1"}]


class Zstandard:
    """Stands in for the zstandard package by zlib, whose frames are unpacked by the same calls."""

    ZstdError = zlib.error
    ZstdDecompressor = staticmethod(zlib.decompressobj)


def test_zstandard_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "_zstandard", lambda _path: Zstandard)
    whole = zlib.compress(LINES * 500)
    lines = LINES.split(b"\n")
    for name, content in {
        "a.jsonl": whole,
        "frames.jsonl": zlib.compress(lines[0] + b"\n") + zlib.compress(lines[1]),
        "cut.txt": whole[:-9],
        "wrong.txt": b"no frame",
    }.items():
        (tmp_path / f"{name}.zst").write_bytes(content)
    assert len(texts_of(read_documents(tmp_path / "frames.jsonl.zst"))) == 2
    with opened(tmp_path / "a.jsonl.zst") as stream:
        assert stream.read() == LINES * 500
    for name in ("cut", "wrong"):
        with pytest.raises(LinscoreError, match=f"{name}.txt.zst is damaged"):
            texts_of(read_documents(tmp_path / f"{name}.txt.zst"))


def test_zstandard_where_it_is_missing(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(compressed.importlib, "import_module", missing)
    (tmp_path / "a.txt.zst").write_bytes(b"(\xb5/\xfd")
    with pytest.raises(LinscoreError, match="pip install zstandard, or unpack it"):
        texts_of(read_documents(tmp_path / "a.txt.zst"))


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_file_is_refused_by_name(tmp_path, cut):
    content = gzip.compress(LINES * 100)
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2] if cut else b"x" + content)
    with pytest.raises(LinscoreError, match=r"a\.jsonl\.gz is damaged, or not what its name says"):
        texts_of(read_documents(tmp_path / "a.jsonl.gz"))
    with pytest.raises(LinscoreError, match="cannot be read"):
        read_rows(tmp_path / "a.jsonl.gz")


def test_compressed_parquet_is_refused(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    for read in (read_documents, read_rows):
        with pytest.raises(LinscoreError, match=r"a\.parquet\.gz is compressed as a whole: unpack it"):
            read(tmp_path / "a.parquet.gz")


def test_what_unpacks_to_more_than_memory_holds_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "LONGEST", 1 << 20)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"word " * (1 << 20)))
    (document,) = read_documents(tmp_path / "a.txt.gz")
    assert max(map(len, document)) <= 1 << 20
    for name, content in {"b.jsonl.gz": b" " * (5 << 20), "c.json.gz": b'["' + b"x" * (5 << 20)}.items():
        (tmp_path / name).write_bytes(gzip.compress(content))
        with pytest.raises(LinscoreError, match="has a record of more than 1 MiB"):
            texts_of(read_documents(tmp_path / name))


def test_a_folder_says_what_it_leaves_out(tmp_path):
    contents = {"a.txt": b"read", "b.txt": "café fermé, là".encode("latin-1"), "c.gz": b"no gzip", "empty.txt": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    said = []
    assert texts_of(read_documents(tmp_path, said.append)) == ["read"]
    assert [line.split(": ")[0] for line in said] == ["left out", "left out"]
    assert "b.txt is not UTF-8" in said[0]
    assert "c.gz is damaged" in said[1]
    with pytest.warns(LinscoreWarning, match="left out"):
        next(read_documents(tmp_path))  # though no other file is asked for


def test_a_folder_names_the_first_of_many_that_it_leaves_out(tmp_path):
    (tmp_path / "z.txt").write_bytes(b"read")
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\xff")
    said = []
    assert texts_of(read_documents(tmp_path, said.append)) == ["read"]
    assert len(said) == 4
    assert "more files" in said[-1]


@pytest.mark.parametrize(
    ("content", "expected"), [(LINES, 1), (b"{ braces }\n", 0), (b"[1, 2]\n", 0), (b"a\n" + LINES, 0)]
)
def test_text_that_looks_like_json_lines_is_said_so(tmp_path, content, expected):
    (tmp_path / "a.txt").write_bytes(content)
    said = []
    assert texts_of(read_documents(tmp_path / "a.txt", said.append)) == [content.decode()]
    assert len(said) == expected
    assert all("name it .jsonl" in line for line in said)


def test_the_former_paths_lead_to_the_same_names():
    from linscore import decoders, documents, find_decoder

    assert documents.read_documents is read_documents
    assert decoders.find_decoder is find_decoder
