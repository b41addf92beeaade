"""What was there stays: results of other models and texts, and all of it after a signal."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from tiny_models import tiny
from words import words

from linscore.scoring.report import Report


def test_a_result_of_another_model_or_text_is_not_replaced(run, scored, model_folder, text, tmp_path):
    """Its own is; the same weights under another name are another model."""
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(model_folder, other)
    (tmp_path / "other.txt").write_text(words(1000, seed=1))
    before = {entry.name: entry.read_bytes() for entry in out.iterdir()}
    calls = {
        f"holds the scores of {model_folder}, not of {other}": (str(other), text),
        f"holds the scores of {model_folder} on {text}, not on": (model_folder, str(tmp_path / "other.txt")),
    }
    for message, (model, read) in calls.items():
        code, printed, error = run("score", model, "--text", read, "--seq-len", "16", "--out", scored)
        assert (code, printed, error.count("\n")) == (2, "", 1)
        assert message in error
        assert error.endswith("give another --out, or --overwrite to replace them\n")
        assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == before
    assert run("score", model_folder, "--text", text, "--seq-len", "16", "--out", scored)[0] == 0
    assert run("score", str(other), "--text", text, "--seq-len", "16", "--out", scored, "--overwrite")[0] == 0
    assert Report.load(out).model == str(other)
    trained = tiny("llama")
    for parameter in trained.parameters():
        parameter.data *= 1.1
    trained.save_pretrained(other)
    code, _, error = run("score", str(other), "--text", text, "--seq-len", "16", "--out", scored)
    assert code == 2
    assert f"holds the scores of other weights than {other} has now" in error


def test_models_of_one_name_have_folders_of_their_own(run, model_folder, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for parent in "pq":
        shutil.copytree(model_folder, tmp_path / parent / "checkpoint-100")
    for _ in range(2):  # again into the same
        for parent in "pq":
            assert run("score", f"{parent}/checkpoint-100", "--text", text, "--seq-len", "16")[0] == 0
    told = {path.parent.name: json.loads(path.read_text())["model"] for path in Path("scores").rglob("report.json")}
    assert told == {"checkpoint-100": "p/checkpoint-100", "q-checkpoint-100": "q/checkpoint-100"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_in_one_line_and_leaves_what_was_there(
    run, scored, model_folder, text, tmp_path, monkeypatch, number, code
):
    before = {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("linscore.scoring.report.write_moments", lambda *_, **__: os.kill(os.getpid(), number))
    handler = signal.getsignal(signal.SIGTERM)
    ctrl_c = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # torchrun's agent, in another test, leaves its own
    found, printed, error = run("score", model_folder, "--text", text, "--seq-len", "16", "--out", scored)
    signal.signal(signal.SIGINT, ctrl_c)
    assert (found, printed) == (code, "")
    assert error.strip() == "linscore: interrupted, nothing was written"
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()} == before
    assert signal.getsignal(signal.SIGTERM) is handler
