"""`linscore train` in processes of its own: two that share each batch, and one that is killed."""

import pytest
import torch
import yaml
from accelerate.utils import DistributedType
from processes import by_torchrun, killed_in_training
from train_job import assert_same_run, curve, weights

from linscore.pretraining.checkpoints import newest_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_two_processes_are_one(run, config, tmp_path):
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
def test_a_killed_run_resumes_to_the_same_curve(run, config, tmp_path):
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
