"""`linscore report`, and the page of `linscore score --html`."""

import json

import pytest

from linscore.files.curve import write_curve
from linscore.surgery.record import Record


@pytest.fixture
def scored(full, tmp_path):
    full.save(tmp_path / "score")
    return tmp_path / "score"


def test_report_prints_tables_or_writes_a_page(run, scored, tmp_path):
    code, out, _ = run("report", scored, scored)
    assert code == 0
    assert out.count("768 tokens") == 2
    code, out, _ = run("report", scored, "--html")
    assert (code, out) == (0, f"page     {scored}/report.html\n")
    assert (scored / "report.html").read_text().startswith("<!doctype html>")
    code, out, _ = run("report", scored, "--html", "--out", tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").is_file()


def test_report_shows_what_lies_beside_cut_models(run, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    choice = {
        "by": "perplexity",
        "whole": 4.0,
        "sequential": True,
        "figures": {"3": 5.0},
        "scored": {"text": "t", "tokens": 9},
        "blocks": [3],
    }
    Record("drop", "embedded", [], 10, 9, 1000, 900, 500, 450, 64, 32, choice=choice).save(cut)
    write_curve(cut / "losses.jsonl", [{"step": 1, "kl": 0.5}])
    assert "perplexity 4.0000 on 9 tokens of t to become 5.0000" in run("report", cut)[1]
    _, out, _ = run("report", cut, "--json")
    (found,) = json.loads(out)
    assert (found["record"]["parameters"], found["losses"]) == (900, [{"step": 1, "kl": 0.5}])
    assert run("report", cut, "--html")[:2] == (0, f"page     {cut}/report.html\n")
    page = (cut / "report.html").read_text()
    assert "9 of 10" in page
    assert "<td>10.0%</td><td>50.0%</td><td>10.0%</td>" in page
    (cut / "compress.json").write_text("{}")
    assert "compress.json is damaged: compress the model again" in run("report", cut)[2]


def test_report_says_what_is_wrong(run, scored, tmp_path):
    for args, line in (
        ([tmp_path], f"{tmp_path} holds none of report.json, dynamics.json, tokens.json, lens.json, linscore.json"),
        ([scored, "--out", "page.html"], "--out is where the page goes: give --html with it"),
        ([scored, "--html", "--out", tmp_path], f"{tmp_path} is a folder: give the name of a file as --out"),
    ):
        code, out, err = run("report", *args)
        assert (code, out) == (2, "")
        assert line in err


def test_score_writes_the_page_beside_its_report(run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("def f(x):\n    return x + 1\n" * 200)
    code, out, _ = run("score", "--text", text, "--seq-len", 64, "--html", "--out", tmp_path / "out")
    assert code == 0
    assert out.endswith(f"page     {tmp_path}/out/report.html\n")
    assert (tmp_path / "out" / "report.html").is_file()


def test_tables_are_printed_plainly_where_that_is_asked(run, scored, monkeypatch):
    code, out, _ = run("report", scored, "--plain")
    assert code == 0
    assert out.splitlines()[1].split("\t")[:3] == ["block", "linearity", "held-out"]
    assert len(out.splitlines()[2].split("\t")) == len(out.splitlines()[1].split("\t"))
    assert "━" in run("report", scored)[1]
    monkeypatch.setenv("LINSCORE_PLAIN", "1")
    assert run("rank", scored)[1].splitlines()[1] == "rank\tblock\tblock_influence"


def test_report_prints_json(run, scored, full):
    code, out, _ = run("report", scored, "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["blocks"] == json.loads(full.to_json())["blocks"]
