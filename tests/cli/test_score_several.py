"""`linscore score A B C`: each into a folder of its own, and what failed is said at the end."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from linscore.progress import TokenProgress

pytestmark = pytest.mark.slow


@pytest.fixture
def models(model_folder, tmp_path, monkeypatch):
    """Two of one name, and one without weights."""
    monkeypatch.chdir(tmp_path)
    found = ["p/tiny", "broken", "q/tiny"]
    for folder in found:
        shutil.copytree(model_folder, folder)
    Path("broken/model.safetensors").unlink()
    return found


def names(folder):
    return {path.parent.name: json.loads(path.read_text())["model"] for path in folder.rglob("report.json")}


def test_each_goes_to_a_folder_of_its_own_and_what_fails_is_said_at_the_end(run, models, text, tmp_path):
    out, missing = tmp_path / "out", "./missing"
    asked = ("--text", text, "--seq-len", "16", "--out", out)
    code, printed, error = run("score", *models, missing, *asked)
    assert code == 2
    assert error.count("linscore: ") == 1
    last = error.splitlines()[-1]
    assert last.startswith(f"linscore: 2 of 4 models were not scored: {models[1]}: ")
    assert f"; {missing}: no model '{missing}'" in last
    assert printed.count("tokens, eager backend") == 2
    assert names(out) == {"tiny": models[0], "q-tiny": models[2]}
    code, printed, _ = run("score", models[0], models[1], *asked, "--json")
    assert code == 2
    assert [one["model"] for one in json.loads(printed)] == [models[0]]
    code, _, error = run("score", *models, "--text", "-", "--out", out)
    assert (code, "--text - can be read only once" in error) == (2, True)


def test_after_a_signal_those_that_were_begun_are_gone_on_with(run, models, text, tmp_path, monkeypatch):
    out, advance, seen = tmp_path / "out", TokenProgress.advance, []
    asked = ("score", models[0], models[2], "--text", text, "--seq-len", "16", "--batch-size", "8", "--out", out)

    def fifth_of_the_second(self, tokens):
        advance(self, tokens)
        seen.append(self)
        if len([one for one in seen if one is not seen[0]]) == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TokenProgress, "advance", fifth_of_the_second)
        assert run(*asked)[0] == 143
    assert names(out) == {"tiny": models[0]}
    assert len(list(out.rglob("position.json"))) == 1
    assert run(*asked, "--resume")[0] == 0
    assert names(out) == {"tiny": models[0], "q-tiny": models[2]}
    assert list(out.rglob("position.json")) == []
