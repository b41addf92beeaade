"""What commands write holds no absolute path, whatever was typed, and leads to models and texts after a move too."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from labelled import written
from tiny_models import tiny
from words import tokenizer, words

from linscore.scoring.report import Report
from linscore.surgery.record import Record

LENGTH = ("--seq-len", "16")
ROWS = [{"text": f"w{n % 7} w{n % 2}", "label": "ab"[n % 2]} for n in range(24)]


def commands(here):
    """Each command and its words, with an absolute path wherever one can be given."""
    model, text, data = here / "models" / "tiny", here / "corpus", here / "data.jsonl"
    out, read = here / "deep" / "out", ("--text", text, *LENGTH)
    return [
        ("score", model, *read, "--for", "fuse", "--out", out / "score"),
        ("prune", model, *read, "--drop", "1", "--out", out / "new" / "pruned"),
        ("fuse", model, "--moments", out / "score", "--drop", "1,", "--out", out / "fused"),
        ("linearize", model, *read, "--replace", "1,", "--out", out / "linear"),
        ("distil", out / "linear", *read, "--teacher", model, "--steps", "1", "--batch-size", "1", "--out", out / "d"),
        ("dynamics", model, *read, "--out", out / "series"),
        ("probe", model, "--data", data, "--out", out / "probe"),
    ]


@pytest.fixture
def here(run, tmp_path):
    """A folder with a model, texts and results; train and finetune-delta are looked at in their own tests."""
    tiny("llama").save_pretrained(tmp_path / "models" / "tiny")
    tokenizer().save_pretrained(tmp_path / "models" / "tiny")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "text.txt").write_text(words(100))
    (tmp_path / "corpus" / "damaged.gz").write_bytes(b"no gzip")
    written(tmp_path, "jsonl", ROWS)
    for command in commands(tmp_path):
        code, _, error = run(*command)
        assert code == 0, error
    return tmp_path


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_no_file_says_where_on_this_machine_it_was_written_and_all_lead_on_when_moved(run, here, tmp_path_factory):
    """One test, for the sake of what it takes to make the files."""
    out = here / "deep" / "out"
    kinds = {path.name for path in files(out)}
    told = {"report.json", "moments.safetensors", "linscore.json", "dynamics.json", "probe.json"}
    assert told | {"config.json", "losses.jsonl"} <= kinds
    secret = re.compile(
        b"|".join(re.escape(os.fsencode(place)) for place in (here, Path.home(), Path.cwd()) if place.name)
    )
    assert [path for path in files(out) if secret.search(path.read_bytes())] == []

    report = Report.load(out / "score")
    assert (report.model, report.text) == (str(here / "models" / "tiny"), str(here / "corpus"))
    assert any(warning.message.startswith("left out: corpus/damaged.gz") for warning in report.warnings)
    assert json.loads((out / "new" / "pruned" / "linscore.json").read_text())["model"] == "./../../../../models/tiny"
    assert Record.load(out / "new" / "pruned").model == report.model

    moved = tmp_path_factory.mktemp("other") / "place"
    shutil.move(here, moved)
    out, read = moved / "deep" / "out", ("--text", moved / "corpus", *LENGTH)
    assert Record.load(out / "d").distilled["teacher"] == str(moved / "models" / "tiny")
    assert run("rank", out / "score", "--by", "perplexity", *read[:2])[0] == 0
    code, printed, error = run(
        "distil", out / "linear", *read, "--steps", "1", "--batch-size", "1", "--out", moved / "d"
    )
    assert code == 0, error
    assert f"linscore evaluate {moved / 'models' / 'tiny'} {out / 'linear'}" in printed
    for command in ("score", "dynamics"):  # over their own results
        again = next(words for words in commands(moved) if words[0] == command)
        code, _, error = run(*again)
        assert code == 0, error
