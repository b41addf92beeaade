"""A run is begun, kept where there is something to go on from, gone on with under the same settings, and never lost."""

import json
import os
from dataclasses import dataclass

import pytest

from linscore.distillation.settings import Begun
from linscore.distillation.settings import Settings as DistilSettings
from linscore.distillation.settings import run_folder as distil_folder
from linscore.errors import Interrupted, LinscoreError
from linscore.files.curve import append_line, read_curve, write_curve
from linscore.files.run_folder import SETTINGS, RunFolder, difference
from linscore.pretraining.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    text: str | None = None
    steps: int = 3
    rate: float = 0.5
    workers: int = 1


@dataclass(frozen=True)
class Found(Settings):
    before: float = 0.0


def folder(path, **settings):
    return RunFolder(path, Settings(**settings), free=("workers",), places=("text",))


def newest(path):
    """The last of what a run has saved."""
    return lambda: max(path.glob("step_*"), default=None)


def saves(run, name="step_1"):
    (run.path / name).mkdir()


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_run_says_what_it_was_begun_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").touch()
    folder(tmp_path / "out", text="text.txt").begin(before=1.5)
    assert (tmp_path / "out" / SETTINGS).read_text() == (
        '{\n  "text": "../text.txt",\n  "steps": 3,\n  "rate": 0.5,\n  "workers": 1,\n  "before": 1.5\n}\n'
    )
    monkeypatch.chdir("out")
    assert folder(tmp_path / "out", text="../text.txt", workers=2).resume(Found).before == 1.5


def test_a_run_of_version_0_1_0_which_wrote_absolute_places_goes_on(tmp_path):
    (tmp_path / "text.txt").touch()
    folder(tmp_path / "out", text=str(tmp_path / "text.txt")).begin(before=1.5)
    settings = json.loads((tmp_path / "out" / SETTINGS).read_text())
    assert str(tmp_path) not in json.dumps(settings)
    (tmp_path / "out" / SETTINGS).write_text(json.dumps(settings | {"text": str(tmp_path / "text.txt")}))
    assert folder(tmp_path / "out", text=str(tmp_path / "text.txt")).resume(Found).before == 1.5
    with pytest.raises(LinscoreError, match="was begun with"):
        folder(tmp_path / "out", text=str(tmp_path / "other.txt")).resume(Found)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 4}, "`steps=3`, not 4"),
        ({"rate": 1, "steps": 4}, "`steps=3`, not 4"),
        ({"text": "a"}, "no `text`, not `text=a`"),
    ],
)
def test_another_run_does_not_go_on_there(tmp_path, asked, message):
    folder(tmp_path / "out").begin()
    before = content(tmp_path)
    with pytest.raises(LinscoreError, match=f"out was begun with {message}: give the same, or another `out`"):
        folder(tmp_path / "out", **asked).resume(Settings)
    assert content(tmp_path) == before


def test_the_difference_is_one_of_what_is_asked():
    assert difference({"a": 1, "b": 2, "old": 3}, {"a": 1.0, "b": 2}) is None
    assert difference({"a": None}, {"a": 5}) == "no `a`, not `a=5`"
    assert difference({"a": 5}, {"a": None}) == "`a=5`, not no `a`"
    assert difference({"a": 5}, {"a": 6}, free=("a",)) is None


@pytest.mark.parametrize("there", ["run", "file", "empty folder", "link"])
def test_nothing_is_begun_where_something_is(tmp_path, there):
    out = tmp_path / "out"
    {
        "run": folder(out).begin,
        "file": out.touch,
        "empty folder": out.mkdir,
        "link": lambda: out.symlink_to(tmp_path / "nowhere"),
    }[there]()
    before = content(tmp_path)
    for attempt in (folder(out).check_new, folder(out).begin):
        with pytest.raises(LinscoreError, match="out exists: `resume` the run in it, or give another `out`"):
            attempt()
    assert content(tmp_path) == before


def test_where_no_run_is_none_goes_on(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "empty"):
        with pytest.raises(LinscoreError, match=f"{name} holds no run to go on with"):
            folder(tmp_path / name).resume(Settings)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("damage", ["cut", "newer", "type", "pipe"])
def test_damaged_settings_are_one_line_and_nothing_is_lost(tmp_path, damage):
    run = folder(tmp_path / "out")
    run.begin()
    saves(run)
    file = run.path / SETTINGS
    begun = json.loads(file.read_text())
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_text(json.dumps(begun | ({"later": 1} if damage == "newer" else {"steps": "3"})))
    with pytest.raises(LinscoreError, match=r"settings\.json") as caught:
        folder(run.path).resume(Settings)
    assert "\n" not in str(caught.value)
    assert (run.path / "step_1").is_dir()


def work(run, error, saved=()):
    with run.kept(newest(run.path)):
        for name in saved:
            saves(run, name)
        raise error


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), SystemExit(143)])
def test_a_run_that_has_saved_nothing_leaves_nothing(tmp_path, error):
    run = folder(tmp_path / "out")
    run.begin()
    with pytest.raises(type(error)) as caught:
        work(run, error)
    assert not isinstance(caught.value, Interrupted)
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_saved_something_stays_and_ctrl_c_says_how_to_go_on(tmp_path):
    run = folder(tmp_path / "out")
    run.begin()
    with pytest.raises(Interrupted, match=r"go on from .*step_2 with `resume`"):
        work(run, KeyboardInterrupt(), ("step_1", "step_2"))
    with pytest.raises(OSError, match="full"):
        work(run, OSError("full"))
    assert (run.path / "step_2").is_dir()


def test_what_another_process_has_begun_is_not_removed(tmp_path):
    """Also where it was killed before it could save anything; only what it has left half written goes."""
    folder(tmp_path / "out").begin()
    (tmp_path / "out" / "series").mkdir()
    (tmp_path / "out" / "series" / ".part-0-report.json").write_text("half")
    with folder(tmp_path / "out") as run:
        run.resume(Settings)
        for error in (OSError("full"), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                work(run, error)
    assert content(tmp_path / "out").keys() == {SETTINGS}
    other = folder(tmp_path / "out")  # a process that neither began nor resumed it
    with pytest.raises(OSError, match="full"):
        work(other, OSError("full"))
    assert (tmp_path / "out" / SETTINGS).is_file()


def test_one_process_at_a_time_begins_or_goes_on(tmp_path):
    with folder(tmp_path / "out") as run:
        run.begin()
        before = content(tmp_path / "out")
        with pytest.raises(LinscoreError, match=rf"another process .* works on {tmp_path / 'out'}"):
            folder(tmp_path / "out").resume(Settings)
        assert content(tmp_path / "out") == before
    with folder(tmp_path / "out") as run:
        run.resume(Settings)
    assert content(tmp_path / "out").keys() == {SETTINGS}


DISTIL = """{
  "student": "cut",
  "teacher": "original",
  "text": "text.txt",
  "dataset": null,
  "steps": 6,
  "batch_size": 2,
  "seq_len": null,
  "learning_rate": 0.001,
  "train": "replacements",
  "hidden": 1,
  "kl": 1.0,
  "lm": 0.0,
  "dtype": "float32",
  "before": {
    "loss": 0.5,
    "hidden": 0.25,
    "kl": 0.25,
    "lm": null
  }
}
"""
ASKED = {"student": "cut", "teacher": "original", "text": "text.txt", "dataset": None, "steps": 6, "batch_size": 2}
ASKED |= {"seq_len": None, "learning_rate": 0.001, "train": "replacements", "hidden": 1, "kl": 1.0, "lm": 0.0}


def test_a_distillation_that_version_0_1_began_goes_on(tmp_path):
    asked = DistilSettings(**ASKED, dtype="float32")
    before = {"loss": 0.5, "hidden": 0.25, "kl": 0.25, "lm": None}
    (tmp_path / SETTINGS).write_text(DISTIL)
    assert distil_folder(tmp_path, asked).resume(Begun).before == before
    distil_folder(tmp_path / "again", asked).begin(before=before)
    assert (tmp_path / "again" / SETTINGS).read_text() == DISTIL
    (tmp_path / SETTINGS).write_text(DISTIL.replace('"lm": null', '"l": null'))
    with pytest.raises(LinscoreError, match=f"settings.json is damaged: remove {tmp_path} and start again"):
        distil_folder(tmp_path, asked).resume(Begun)


TRAIN = """{
  "model": {
    "hidden_size": 16
  },
  "steps": 12,
  "learning_rate": 0.003,
  "tokenizer": "embedded",
  "text": "text.txt",
  "dataset": null,
  "tokens": null,
  "seq_len": 512,
  "batch_size": 8,
  "micro_batch": null,
  "warmup": 200,
  "schedule": "cosine",
  "weight_decay": 0.1,
  "regularizer": "none",
  "weight": 0.5,
  "dtype": "auto",
  "seed": 0,
  "heldout_tokens": 100000,
  "log_every": 10,
  "save_every": 250,
  "score_every": 250,
  "keep": 2,
  "report_to": []
}
"""


def test_a_training_that_version_0_1_began_goes_on(tmp_path):
    recipe = Recipe(model={"hidden_size": 16}, steps=12, learning_rate=3e-3, text="text.txt", micro_batch=4)
    (tmp_path / SETTINGS).write_text(TRAIN)
    assert RunFolder(tmp_path, recipe, free=("micro_batch",)).resume(Recipe).micro_batch is None
    with pytest.raises(LinscoreError, match="no `micro_batch`, not `micro_batch=4`"):
        RunFolder(tmp_path, recipe).resume(Recipe)
    RunFolder(tmp_path / "again", recipe.but({}), places=("text",)).begin()
    text = (tmp_path / "again" / SETTINGS).read_text()
    assert text == TRAIN.replace('"micro_batch": null', '"micro_batch": 4')


def test_a_curve_is_added_to_and_a_torn_line_does_not_count(tmp_path):
    path = tmp_path / "curve.jsonl"
    append_line(path, {"step": 1, "loss": 2.5})
    append_line(path, {"step": 2, "loss": 1.5})
    assert path.read_text() == '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.5}\n'
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    found = read_curve(path)
    assert [line["step"] for line in found] == [1, 2]
    write_curve(path, found[:1])
    assert path.read_text() == '{"step": 1, "loss": 2.5}\n'
    assert [one.name for one in tmp_path.iterdir()] == ["curve.jsonl"]


@pytest.mark.parametrize("line", [b"{]", b"\xff", b"[]", b"{}", b'{"step": "1"}', b'{"step": true}', b"[" * 100])
def test_a_damaged_curve_is_one_line(tmp_path, line):
    (tmp_path / "curve.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(LinscoreError, match=r"curve\.jsonl is damaged: start again") as caught:
        read_curve(tmp_path / "curve.jsonl")
    assert "\n" not in str(caught.value)
