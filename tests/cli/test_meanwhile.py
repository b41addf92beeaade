"""Something is said before torch is imported, and nothing where others read along."""

import sys

import click
import pytest

from linscore import cli
from linscore.cli.meanwhile import loading
from linscore.progress import TokenProgress


@pytest.fixture
def command(monkeypatch, run):
    """A command that loads, in a process that has not imported torch."""

    @click.command("doctor")
    @click.option("--json", "as_json", is_flag=True)
    def loads(as_json):
        without = {name: module for name, module in sys.modules.items() if name != "torch"}
        with monkeypatch.context() as patch:
            patch.setattr(sys, "modules", without)
            loading("a/model", "another")
        monkeypatch.setattr("linscore.progress.EVERY", 0.0)
        with TokenProgress(None, "scoring") as bar:
            bar.advance(5)
        click.echo("{}" if as_json else "done")

    monkeypatch.setitem(cli.cli.commands, "doctor", loads)
    return run


def test_what_is_loaded_is_said_at_once(command):
    code, out, err = command("doctor")
    assert (code, out) == (0, "done\n")
    said, progress = err.splitlines()
    assert said == "loading a/model, another …"
    assert progress.startswith("scoring: 5 tokens")


def test_nothing_is_said_beside_json_but_on_a_terminal(command, monkeypatch):
    assert command("doctor", "--json") == (0, "{}\n", "")
    assert "scoring" in command("doctor")[2]  # the next call is told again
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert command("doctor", "--json")[2].startswith("loading a/model, another …\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "./nowhere"], "no model './nowhere': there is no such folder"),
        (["evaluate", "embedded", "/no/where"], "no model '/no/where': there is no such folder"),
        (["dynamics", "FILE", "--out", "o"], "no model 'FILE': that is a file, give the folder of a model"),
        (["score", "--text", "nowhere"], "nowhere does not exist: give a text file, a folder, or - for standard input"),
        (
            ["prune", "a/model", "--drop", "1", "--text", "EMPTY", "--out", "o"],
            "EMPTY is empty: give a file with text in it",
        ),
        (["probe", "--data", "nowhere"], "nowhere is no file: give jsonl, json, parquet or csv"),
        (
            ["fuse", "a/model", "--drop", "1", "--out", "FILE"],
            "FILE exists: give another --out, a folder that is not there yet",
        ),
        (["probe", "--out", "FILE"], "FILE exists: give another --out, a folder that is not there yet"),
        (["finetune-delta", "--out", "FILE"], "FILE exists: give another --out, a folder that is not there yet"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_said_before_anything_is_loaded(run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a text")
    (tmp_path / "EMPTY").touch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "modules", {name: module for name, module in sys.modules.items() if name != "torch"})
        assert run(*words) == (2, "", f"linscore: {said}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMPTY", "FILE"]


def test_nothing_is_said_where_nobody_has_to_wait(run):
    assert run("rank", "nowhere")[2].count("\n") == 1
