"""`linscore score` after a signal: a line that says how to go on, and with --resume the result of the unbroken run."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from linscore.progress import TokenProgress

OF_A_RUN = ("run", "seconds")


@pytest.fixture
def signalled(monkeypatch):
    """A signal to this process once the third batch is through."""

    def after_three(number, patch=monkeypatch):
        seen, advance = [], TokenProgress.advance

        def third(self, tokens):
            advance(self, tokens)
            seen.append(tokens)
            if len(seen) == 3:
                os.kill(os.getpid(), number)

        patch.setattr(TokenProgress, "advance", third)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield after_three
    signal.signal(signal.SIGINT, before)


def result(folder):
    """What is the same in every run; a digest of the moments is in it."""
    told = json.loads((folder / "report.json").read_text())
    return {name: one for name, one in told.items() if name not in OF_A_RUN}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(run, signalled, model_folder, text, tmp_path, number, code):
    out = tmp_path / "fresh"
    asked = ("score", model_folder, "--text", text, "--seq-len", "16", "--out", out)
    small = (*asked, "--batch-size", "8")
    signalled(number)
    found, printed, error = run(*small)
    assert (found, printed) == (code, "")
    place = f"{out}/scoring"
    assert error.endswith(f"linscore: interrupted: go on from {place}/position.json with --resume, {place} stays\n")
    for wrong, said in (
        (small, f"{place} exists: --resume the run in it, or give another --out"),
        ((*asked, "--resume"), f"{place} was begun with --batch-size 8, not no --batch-size"),
    ):
        found, _, error = run(*wrong)
        assert found == 2, error
        assert said in error
    assert run(*small, "--resume")[0] == 0
    whole = tmp_path / "whole"
    assert run(*small[:-3], whole, *small[-2:])[0] == 0
    assert result(out) == result(whole)
    assert not (out / "scoring").exists()
    found, _, error = run(*small, "--resume")
    assert (found, "holds no run to go on with" in error) == (2, True)


@pytest.mark.slow
def test_a_run_that_was_interrupted_keeps_its_default_folder_until_it_is_overwritten(
    run, signalled, model_folder, text, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for parent in "pq":
        shutil.copytree(model_folder, tmp_path / parent / "model")
    asked = ("--text", text, "--seq-len", "16", "--batch-size", "8")
    with monkeypatch.context() as patch:
        signalled(signal.SIGTERM, patch)
        assert run("score", "p/model", *asked)[0] == 143
    kept = {path.name: path.read_bytes() for path in Path("scores/model/scoring").iterdir()}
    assert run("score", "q/model", *asked)[0] == 0
    assert [path.parent.name for path in Path("scores").rglob("report.json")] == ["q-model"]
    assert run("score", "p/model", *asked)[0] == 2
    assert {path.name: path.read_bytes() for path in Path("scores/model/scoring").iterdir()} == kept
    assert run("score", "p/model", *asked, "--overwrite")[0] == 0
    assert sorted(path.name for path in Path("scores/model").iterdir()) == ["moments.safetensors", "report.json"]
