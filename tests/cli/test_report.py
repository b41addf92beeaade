"""`linscore report`, and the page of `linscore score --html`."""

import json

import pytest


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


def test_report_says_what_is_wrong(run, scored, tmp_path):
    for args, line in (
        ([tmp_path], f"{tmp_path} holds none of report.json, dynamics.json, tokens.json, lens.json"),
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
