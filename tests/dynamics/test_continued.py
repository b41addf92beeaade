"""A series that is gone on with: what repeating a command must not do, and what joins no series."""

import os
import shutil

import pytest
from asked import asked
from series import SEQ_LEN, content, saved
from tiny_models import DEPTH

import linscore.jobs.dynamics as job
from linscore.dynamics import folder as dynamics_folder
from linscore.dynamics.series import Dynamics
from linscore.errors import Interrupted, LinscoreError
from linscore.files.lock import alone_in
from linscore.jobs.dynamics import run_dynamics
from linscore.models.load import load_pretrained
from linscore.scoring.report import Report

run_dynamics = asked(run_dynamics)

pytestmark = pytest.mark.usefixtures("one_thread", "no_picture")


@pytest.fixture
def scored(monkeypatch):
    """The checkpoints that were loaded."""
    loads = []

    def load(name, **options):
        loads.append((name, options["revision"]))
        return load_pretrained(name, **options)

    monkeypatch.setattr(job, "load_pretrained", load)
    return loads


@pytest.mark.slow
def test_a_repeated_command_scores_only_what_is_new(runs, text, scored, tmp_path):
    def again(*names):
        scored.clear()
        return run_dynamics(names, text=text, seq_len=SEQ_LEN, device="cpu", out=str(tmp_path / "out"))

    early, late = str(runs / "checkpoint-9"), str(runs / "checkpoint-10")
    first = again(late)
    assert scored == [(late, None)]
    report = (tmp_path / "out" / "10" / "report.json").read_bytes()
    both = again(early, late)
    assert scored == [(early, None)]
    assert [one.checkpoint.name for one in both.scored] == [early, late]
    assert both.scored[1] == first.scored[0]
    assert again(early, late) == both
    assert scored == []
    assert [one.checkpoint.name for one in again(early).scored] == [late, early]  # nothing is forgotten
    assert (tmp_path / "out" / "10" / "report.json").read_bytes() == report


def test_a_second_process_is_refused_and_what_a_killed_one_left_goes(runs, text, done, tmp_path):
    out = shutil.copytree(done[0], tmp_path / "out")
    options = {"text": text, "seq_len": SEQ_LEN, "device": "cpu", "out": str(out)}
    before = content(out)
    (out / "9" / ".part-0-report.json").write_text("half")
    with alone_in(out), pytest.raises(LinscoreError, match=rf"another process .* works on {out}"):
        run_dynamics([str(runs)], **options)
    assert (out / "9" / ".part-0-report.json").exists()
    run_dynamics([str(runs)], **options)
    assert content(out) == before


@pytest.mark.slow
def test_what_was_done_before_an_interruption_is_kept(runs, text, done, scored, tmp_path, monkeypatch):
    out, write = tmp_path / "out", dynamics_folder.whole_file

    def fails_at_the_second(path):
        if path.parent.name == "10":
            raise KeyboardInterrupt
        return write(path)

    options = {"text": text, "seq_len": SEQ_LEN, "device": "cpu", "out": str(out)}
    with monkeypatch.context() as broken:
        broken.setattr(dynamics_folder, "whole_file", fails_at_the_second)
        with pytest.raises(Interrupted, match="repeat the command"):
            run_dynamics([str(runs)], **options)
    assert [str(path.relative_to(out)) for path in out.rglob("report.json")] == ["9/report.json"]
    scored.clear()
    assert run_dynamics([str(runs)], **options).scored == done[1].scored
    assert scored == [(str(runs / "checkpoint-10"), None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 8}, "with `seq_len=16`, not 8"),
        ({"tokens": 320}, "with no `tokens`, not `tokens=320`"),
        ({"text": None}, "with `text="),
        ({"dtype": "bfloat16"}, "`dtype=auto`, not bfloat16"),
    ],
)
def test_other_settings_are_refused(runs, text, done, changes, message):
    before = content(done[0])
    with pytest.raises(LinscoreError, match=message):
        run_dynamics([str(runs)], **{"text": text, "seq_len": SEQ_LEN, "device": "cpu", "out": str(done[0]), **changes})
    assert content(done[0]) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": DEPTH + 1}, f"step_30 has depth 4, .*checkpoint-9 {DEPTH}"),
        ({"hidden_size": 16}, "step_30 has width 16, .*checkpoint-9 32"),
        ({"more": ["zzz"]}, "step_30 has another vocabulary"),
    ],
)
def test_another_model_does_not_join_the_series(runs, text, tmp_path, changes, message):
    other = saved(tmp_path / "step_30", **changes)
    out = tmp_path / "out"
    with pytest.raises(LinscoreError, match=message):
        run_dynamics(
            [str(runs / "checkpoint-9"), other], text=text, seq_len=SEQ_LEN, tokens=64, device="cpu", out=str(out)
        )
    assert Dynamics.load(out / "dynamics.json").steps == [9]


@pytest.mark.slow
def test_what_changed_since_is_noticed(runs, tmp_path, text):
    out, words = tmp_path / "out", tmp_path / "words.txt"
    words.write_text(open(text).read())  # noqa: SIM115
    weights = saved(tmp_path / "step_1", 3)
    options = {"text": str(words), "seq_len": SEQ_LEN, "device": "cpu", "out": str(out)}
    run_dynamics([weights], **options)
    before = content(out)
    words.write_text("z" + words.read_text()[1:])
    with pytest.raises(LinscoreError, match=r"was given other tokens than .*step_1"):
        run_dynamics([weights, str(runs / "checkpoint-9")], **options)
    os.utime(tmp_path / "step_1" / "model.safetensors", ns=(1, 1))
    with pytest.raises(LinscoreError, match=r"weights of .*step_1 changed since"):
        run_dynamics([weights], **options)
    saved(tmp_path / "other" / "step_1")
    with pytest.raises(LinscoreError, match=r"step 1 of the series in .* is .*step_1, not .*other"):
        run_dynamics([str(tmp_path / "other")], **options)
    assert content(out) == before


@pytest.mark.slow
def test_revisions_of_one_name(text, monkeypatch, tmp_path, runs):
    asked = []

    def load(name, *, revision, **options):
        asked.append((name, revision))
        return load_pretrained(str(runs / "checkpoint-9"), **options)

    monkeypatch.setattr(job, "load_pretrained", load)
    found = run_dynamics(
        ["someone/model"],
        revisions="step2-tokens1B, step10-tokens5B",
        text=text,
        tokens=64,
        seq_len=SEQ_LEN,
        device="cpu",
        out=str(tmp_path),
    )
    assert asked == [("someone/model", "step2-tokens1B"), ("someone/model", "step10-tokens5B")]
    assert found.steps == [2, 10]
    assert Report.load(tmp_path / "10").model == "someone/model@step10-tokens5B"


def test_standard_input_cannot_be_read_twice(runs, tmp_path):
    with pytest.raises(LinscoreError, match="`text=-` can be read only once"):
        run_dynamics([str(runs)], text="-", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
