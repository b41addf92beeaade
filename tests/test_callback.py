"""Linearity during training: figures are those of `linscore.score`, and the training does not notice."""

import copy
import json

import pytest
import torch
from test_trainer import Texts, arguments
from tiny_models import VOCABULARY, tiny
from transformers import Trainer, TrainerCallback

from linscore.errors import LinscoreError
from linscore.score import score
from linscore.training.callback import LinearityCallback
from linscore.training.trainer import RegularizedTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

MEANS = ("linearity_heldout", "linearity_no_residual_heldout")


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (8, 20), generator=generator) for _ in range(4)]


class Keep(TrainerCallback):
    """What a tracker would be told, and copies of the model after each step."""

    def __init__(self):
        self.logs, self.models = [], {}

    def on_step_end(self, _args, state, _control, model, **_):
        self.models[state.global_step] = copy.deepcopy(model.state_dict())

    def on_log(self, _args, state, _control, logs, **_):
        self.logs.append((state.global_step, dict(logs)))


def train(folder, every=None, out=None, *, kind=Trainer, told=True, start=None, **options):
    """The trainer, and what was kept; dropout is on."""
    keep, model = Keep(), tiny("gpt2")
    options = {"max_steps": 5, "per_device_train_batch_size": 4, **options}
    weights = {"cosine": 0.1} if kind is RegularizedTrainer else {}
    trainer = kind(model=model, args=arguments(folder, **options), train_dataset=Texts(32), callbacks=[keep], **weights)
    if every is not None:
        trainer.add_callback(LinearityCallback(batches(), every, out, trainer=trainer if told else None))
    trainer.train(resume_from_checkpoint=start)
    return trainer, keep


def lines(folder):
    return [json.loads(line) for line in (folder / "linearity.jsonl").read_text().splitlines()]


def losses(keep):
    return [logs["loss"] for _, logs in keep.logs if "loss" in logs]


@pytest.mark.parametrize("kind", [Trainer, RegularizedTrainer])
def test_the_training_does_not_notice(tmp_path, kind):
    _, plain = train(tmp_path, kind=kind)
    trainer, watched = train(tmp_path, 2, tmp_path / "out", kind=kind)
    assert losses(plain) == losses(watched)
    assert len(losses(watched)) == 5  # the loss is still logged in the steps that are scored
    for name, value in plain.models[5].items():
        assert torch.equal(value, watched.models[5][name]), name
    assert trainer.model.training


def test_figures_are_those_of_the_model_at_that_step(tmp_path):
    _, keep = train(tmp_path, 2, tmp_path / "out")
    series = lines(tmp_path / "out")
    assert [line["step"] for line in series] == [2, 4, 5]
    for line in series:
        model = tiny("gpt2")
        model.load_state_dict(keep.models[line["step"]])
        report = score(model, batches())
        assert line["tokens"] == report.tokens == 640
        for block, wanted in zip(line["blocks"], report.blocks, strict=True):
            assert block == {name: getattr(wanted, name) for name in block}
            assert {"index", "linearity", "linearity_no_residual", *MEANS} == block.keys()
        for name in MEANS:
            assert line[name] == pytest.approx(sum(getattr(block, name) for block in report.blocks) / 3)


def test_trackers_are_told(tmp_path):
    trainer, keep = train(tmp_path, 2, tmp_path / "out")
    told = [(step, logs) for step, logs in keep.logs if MEANS[0] in logs]
    assert [step for step, _ in told] == [2, 4, 5]
    assert "train_runtime" in keep.logs[-1][1]  # the last thing that trackers hear
    for (_, logs), line in zip(told, lines(tmp_path / "out"), strict=True):
        for name in MEANS:
            assert logs[name] == line[name]
            assert [logs[f"{name}/block_{block['index']}"] for block in line["blocks"]] == [
                block[name] for block in line["blocks"]
            ]
    assert [entry["step"] for entry in trainer.state.log_history if MEANS[0] in entry] == [2, 4, 5]


def test_without_a_trainer_the_history_has_the_figures(tmp_path):
    trainer, keep = train(tmp_path, 5, told=False)
    (entry,) = [entry for entry in trainer.state.log_history if MEANS[0] in entry]
    assert entry["step"] == 5
    assert not any(MEANS[0] in logs for _, logs in keep.logs)
    assert len(losses(keep)) == 5


def test_a_series_is_continued(tmp_path):
    train(tmp_path, 2, tmp_path / "out", save_strategy="steps", save_steps=4)
    before = (tmp_path / "out" / "linearity.jsonl").read_text()
    train(tmp_path, 2, tmp_path / "out", start=str(tmp_path / "checkpoint-4"), max_steps=6)
    after = (tmp_path / "out" / "linearity.jsonl").read_text()
    assert after.startswith(before)
    assert [line["step"] for line in lines(tmp_path / "out")] == [2, 4, 5, 6]


def test_padded_batches_and_few_tokens(tmp_path):
    """One short sequence leaves a fold empty: then there is no held-out figure, and no error either."""
    trainer = Trainer(model=tiny("gpt2"), args=arguments(tmp_path, max_steps=1), train_dataset=Texts())
    trainer.add_callback(LinearityCallback([torch.arange(3, 15)[None]], 1, tmp_path / "out", trainer=trainer))
    trainer.train()
    (line,) = lines(tmp_path / "out")
    assert line["blocks"][0]["linearity_heldout"] is None
    assert MEANS[0] not in line


@pytest.mark.parametrize(
    ("given", "every", "message"), [([], 0, "every is 0"), (iter([]), 1, "can be read only once"), ([], 1, None)]
)
def test_what_cannot_be_used(tmp_path, given, every, message):
    if message is not None:
        with pytest.raises(LinscoreError, match=message):
            LinearityCallback(given, every)
        return
    trainer = Trainer(model=tiny("gpt2"), args=arguments(tmp_path, max_steps=1), train_dataset=Texts())
    trainer.add_callback(LinearityCallback(given, every))
    with pytest.raises(LinscoreError, match="no batch to score"):
        trainer.train()
