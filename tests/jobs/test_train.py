"""`linscore train` from the command line: what it leaves, and what ends it."""

import math

import pytest
import torch
import yaml
from train_job import curve, weights
from transformers import AutoModelForCausalLM, Trainer

from linscore.dynamics.series import Dynamics
from linscore.models.load import load_tokenizer
from linscore.pretraining.checkpoints import newest_checkpoint
from linscore.regularization.trainer import RegularizedTrainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_a_run_leaves_a_model_a_curve_and_a_series(run, config, tmp_path):
    out = tmp_path / "out"
    code, printed, error = run("train", "--config", config, "--out", out, "--regularizer", "cosine", "--weight", 0.3)
    assert code == 0, error
    assert "parameters on 1,536 tokens of" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        *("checkpoint-10", "checkpoint-12", "checkpoint-5", "curve.jsonl", "curve.png", "linearity", "model"),
        "settings.json",
    ]
    training = [line for line in curve(out) if "loss" in line]
    assert [line["step"] for line in training] == [2, 4, 5, 6, 8, 10, 12]
    for line in training:  # two blocks
        assert line["regularizer"] == pytest.approx(0.3 * 2 * line["cosine"], rel=1e-4)
    heldout = [line for line in curve(out) if "heldout_loss" in line]
    assert [line["step"] for line in heldout] == [6, 12]
    assert heldout[1]["heldout_loss"] < heldout[0]["heldout_loss"] < 1.05 * math.log(2048)
    assert Dynamics.load(out / "linearity" / "dynamics.json").steps == [0, 6, 12]
    assert not [path for path in out.rglob("*") if path.is_file() and bytes(tmp_path) in path.read_bytes()]
    saved, last = weights(out / "model"), weights(out / "checkpoint-12")
    assert all(torch.equal(saved[name], last[name]) for name in last)


@pytest.mark.slow
def test_the_heldout_loss_is_that_of_the_saved_model_on_the_end_of_the_text(run, config, tmp_path):
    assert run("train", "--config", config, "--out", tmp_path / "out")[0] == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").eval()
    assert model.config.use_cache
    ids = [*load_tokenizer("embedded")((tmp_path / "text.txt").read_text(encoding="utf-8"))["input_ids"], 0]
    end = ids[int(0.99 * len(ids)) :]
    rows = torch.tensor(end[: len(end) // 32 * 32]).view(-1, 32)
    with torch.no_grad():
        logits = model(rows).logits[:, :-1].double()
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    heldout = [line["heldout_loss"] for line in curve(tmp_path / "out") if "heldout_loss" in line]
    assert heldout[-1] == pytest.approx(float(wanted), rel=1e-5)


def spoil(monkeypatch, step, what):
    """Of a training step, from now on: its "loss", or the "weights" behind it, turn NaN."""

    def training_step(self, *args, **kwargs):
        loss = Trainer.training_step(self, *args, **kwargs)
        if self.state.global_step + 1 != step:
            return loss
        for parameter in self.model.parameters() if what == "weights" else ():
            parameter.grad.fill_(math.nan)
        return loss * math.nan if what == "loss" else loss

    monkeypatch.setattr(RegularizedTrainer, "training_step", training_step, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "what", "message"),
    [
        (7, "loss", "the loss of step 7 is not finite"),
        (10, "weights", "weights are not finite after step 10"),
        (9, "weights", "the loss of step 10 is not finite"),
    ],
)
def test_a_run_that_diverges_names_the_step_and_the_last_good_checkpoint(
    run, config, tmp_path, monkeypatch, step, what, message
):
    spoil(monkeypatch, step, what)
    out = tmp_path / "out"
    code, _, error = run("train", "--config", config, "--out", out)
    assert code == 2
    assert message in error
    assert f"last good checkpoint is {out / 'checkpoint-5'}" in error
    assert all(math.isfinite(line["loss"]) for line in curve(out) if "loss" in line)
    assert newest_checkpoint(out) == out / "checkpoint-5"
    assert all(value.isfinite().all() for value in weights(out / "checkpoint-5").values())


def test_heldout_loss_that_is_not_finite_ends_the_run(run, config, tmp_path):
    """Weights and losses so far are finite; what these weights compute is not."""
    recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
    recipe |= {"learning_rate": 1e15, "warmup": 0, "steps": 1, "log_every": 5}
    config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    code, _, error = run("train", "--config", config, "--out", tmp_path / "out")
    assert code == 2
    assert "the training diverged" in error
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_before_a_checkpoint(run, config, tmp_path, monkeypatch):
    spoil(monkeypatch, 1, "loss")
    code, _, error = run("train", "--config", config, "--out", tmp_path / "out")
    assert code == 2
    assert "the loss of step 1 is not finite; there is no checkpoint before it" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "nothing.yaml"], "--config nothing.yaml is no file"),
        (["--text", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--regularizer", "l2"], "regularizer is 'l2'"),
        (["--steps", "0"], "steps is 0"),
        (["--device", "tpu"], "--device is 'tpu'"),
        (["--resume"], "holds no run to go on with"),
        (["--text", ""], "text is empty"),
        (["--seed", "-1"], "seed is -1"),
        (["--weight", "0.3"], "there is no regularizer"),
    ],
)
def test_wrong_arguments_leave_nothing(run, config, tmp_path, options, message):
    code, _, error = run("train", "--config", config, "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()
