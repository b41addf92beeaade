"""Scores and other jobs by two processes, one result, one voice and one end; and those that a kernel kills.

Those of `linscore train`, `linscore.scoring.shared` and `linscore.torchmetrics` stand here, too: the processes are
forked from one server, which takes its time.
"""

import json

import pytest
import torch
import yaml
from accelerate.utils import DistributedType
from alike import assert_alike
from processes import by_torchrun, heard, killed_in_training, together
from shared_jobs import kept_report, reports, shared_jobs, shared_reports
from shared_metric import ROWS, batches, in_one_of_two, moments_of
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from train_job import assert_same_run, curve, weights

from linscore.errors import Interrupted
from linscore.pretraining.checkpoints import newest_checkpoint
from linscore.scoring.kept import Kept

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def options(models, tmp_path):
    """A score of some twenty batches, saved after every second one, on the default device."""
    read = ("--text", models / "text.txt", "--seq-len", 16, "--batch-size", 2, "--save-tokens", 64)
    return tuple(map(str, ("score", models / "original", *read, "--out", tmp_path / "together")))


@pytest.fixture
def alone(run, options, tmp_path):
    """The report of one process."""
    assert run(*options[:-1], tmp_path / "alone")[0] == 0
    return _report(tmp_path / "alone")


def _report(folder):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {name: one for name, one in report.items() if name not in ("run", "seconds", "moments_digest")}


def save_and_end_at(block):
    """A save between two blocks, after which Ctrl-C ends the run."""

    def save(kept, position, moments, midway):
        if position.block == block:
            kept.save(position, moments, midway)
            raise KeyboardInterrupt

    return save


@pytest.mark.slow
def test_processes_that_share_batches_report_what_one_does(tmp_path, monkeypatch):
    """Spans, fusions and sub-blocks; padding; fewer batches than processes; sinks and NaNs that only one process meets.

    With the model whole, and streamed: then each runs its share of a group of batches, block by block. What one process
    has saved between two blocks they go on with.
    The oracle is one process, which deals nothing and adds nothing up.
    """
    alone = reports()
    assert alone[3]["nonfinite_rows"] > 33  # what cases are there for
    assert len(alone[0]["curve"]) == 2
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "try_to_save", save_and_end_at(2))
        with pytest.raises(Interrupted):
            kept_report(tmp_path)
    found, beside = together(2, shared_reports, tmp_path)
    ((first, ran), (streamed, groups), gone_on), ((second, others), (_, other_groups), _) = found, beside
    assert str(first) == str(second)  # of which NaN would not be equal
    assert (ran, others) == (16, 11)  # the last case has its pilots from its second batch
    assert_alike(first, alone)
    for report in alone:
        report.pop("curve", None)  # whose looks are between groups
    assert_alike(streamed, alone)
    assert (groups, other_groups) == (9, 4)  # of 4, 2, 1 and 2: the first one of each case is not shared
    assert_alike(gone_on, kept_report(tmp_path / "whole"))


@pytest.mark.slow
def test_what_else_is_shared_comes_out_as_of_one_process(models, tmp_path):
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    *found, (delta, curve, record) = shared_jobs(str(models), str(tmp_path / "alone"))
    (*first, (ours, theirs, described)), (*second, others) = together(
        2, shared_jobs, str(models), str(tmp_path / "together")
    )
    assert_alike(first, found)
    assert second == [first[0], None, first[2]]  # a series is the first one's alone
    assert others == (None, None, None)
    del ours["data"], delta["data"]
    assert_alike([ours, theirs, described], [delta, curve, record], 1e-4)  # sums of float32 gradients


@pytest.mark.slow
def test_a_metric_of_two_processes_is_that_of_all_rows():
    pytest.importorskip("torchmetrics", reason="the extra torchmetrics is not installed")
    given = batches()
    expected = moments_of(given).compute().linearity
    for rank, (found, step, alone, rows) in enumerate(together(2, in_one_of_two)):
        assert found == pytest.approx(expected, abs=1e-12)
        assert step == pytest.approx(moments_of(given[2:]).compute().linearity, abs=1e-12)
        assert alone == pytest.approx(moments_of(given[rank::2]).compute().linearity, abs=1e-12)
        assert rows == 2 * ROWS


@pytest.mark.slow
def test_two_processes_write_one_report(alone, options, tmp_path):
    together(2, heard, tmp_path, None, *options)
    assert alone["tokens"] > 300
    assert_alike(_report(tmp_path / "together"), alone)
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == ["moments.safetensors", "report.json"]
    assert (tmp_path / "0").read_text(encoding="utf-8").count("report  ") == 1
    assert (tmp_path / "1").read_text(encoding="utf-8") == ""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_all_and_one_goes_on(alone, run, options, killed, tmp_path):
    with pytest.raises(ChildFailedError):
        together(2, heard, tmp_path, killed, *options)
    said = (tmp_path / str(1 - killed)).read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in said if line.startswith("linscore: ")]
    assert line.startswith(f"linscore: process {killed} of 0 to 1, on ")
    assert "was killed or has crashed" in line
    assert [path.name for path in (tmp_path / "together").glob("[!.]*")] == ["scoring"]
    code, _, error = run(*options, "--resume")
    assert code == 0, error
    assert_alike(_report(tmp_path / "together"), alone)


@pytest.mark.slow
def test_two_processes_train_as_one(run, config, tmp_path):
    """Each takes half of the batch, in two micro-batches; the device is the default one."""
    recipe = yaml.safe_load(config.read_text(encoding="utf-8")) | {"steps": 4}
    config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    options = ("train", "--config", config, "--regularizer", "cosine")
    assert run(*options, "--out", tmp_path / "one")[0] == 0
    config.write_text(yaml.safe_dump(recipe | {"micro_batch": 1}), encoding="utf-8")
    by_torchrun(2, *options, "--out", tmp_path / "two")
    steps = [line["step"] for line in curve(tmp_path / "two") if "loss" in line]
    assert steps == [2, 4]  # once, not by each of the two
    for one, two in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    ours, theirs = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


@pytest.mark.parametrize("job", ["train", "finetune-delta", "distil"])
def test_processes_that_nothing_joins_are_refused(job, run, config, models, monkeypatch, tmp_path):
    """As where a launcher sets WORLD_SIZE and no rank: each would do the whole job and write its result."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = {
        "train": ("--config", config),
        "finetune-delta": (models / "original", "--data", models / "text.txt"),
        "distil": (models / "cut", "--text", models / "text.txt"),
    }
    monkeypatch.setattr("accelerate.state.PartialState._prepare_backend", lambda *_a, **_k: (None, DistributedType.NO))
    code, _, error = run(job, *options[job], "--out", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert "processes" in error or "one process" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_curve(run, config, tmp_path):
    """Killed after a checkpoint, while the next was being written."""
    options = ("train", "--config", config, "--regularizer", "mse", "--weight", 0.01)
    assert run(*options, "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "broken"
    assert killed_in_training(9, *options, "--out", out) == -9
    torn = out / "checkpoint-10"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(out) == out / "checkpoint-5"
    assert run(*options, "--out", out)[0] == 2  # is not begun anew by mistake
    code, _, error = run(*options, "--out", out, "--resume")
    assert code == 0, error
    assert_same_run(out, tmp_path / "whole")
