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


def test_nothing_is_said_where_nobody_has_to_wait(run):
    assert run("rank", "nowhere")[2].count("\n") == 1
