"""Linearity during training: figures are those of `linscore.score`, and the training does not notice."""

import copy
import shutil

import pytest
import torch
from tiny_models import VOCABULARY, tiny
from trainers import Texts, arguments
from transformers import Trainer, TrainerCallback

from linscore.dynamics.callback import LinearityCallback
from linscore.dynamics.series import Dynamics
from linscore.errors import LinscoreError
from linscore.regularization.trainer import RegularizedTrainer
from linscore.scoring.report import Report
from linscore.scoring.score import score

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


def series(folder):
    return Dynamics.load(folder / "dynamics.json")


def losses(keep):
    return [logs["loss"] for _, logs in keep.logs if "loss" in logs]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with checkpoints and the series `out`, their trainer, and what was kept: to be left as they are."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, *train(folder, 2, folder / "out", save_strategy="steps", save_steps=2)


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the folder, to go on in."""
    return shutil.copytree(trained[0], tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Trainer, RegularizedTrainer])
def test_the_training_does_not_notice(trained, tmp_path, kind):
    _, plain = train(tmp_path, kind=kind)
    trainer, watched = trained[1:] if kind is Trainer else train(tmp_path, 2, tmp_path / "out", kind=kind)
    assert losses(plain) == losses(watched)
    assert len(losses(watched)) == 5  # the loss is still logged in the steps that are scored
    for name, value in plain.models[5].items():
        assert torch.equal(value, watched.models[5][name]), name
    assert trainer.model.training


@pytest.mark.slow
def test_figures_are_those_of_the_model_at_that_step(trained):
    folder, _, keep = trained
    dynamics = series(folder / "out")
    assert dynamics.steps == [0, 2, 4, 5]
    assert dynamics.tokens == 640
    for step, one in zip(dynamics.steps, dynamics.scored, strict=True):
        model = tiny("gpt2")
        if step:
            model.load_state_dict(keep.models[step])
        wanted = score(model, batches(), spectra=False)
        report = Report.load(folder / "out" / str(step))
        assert report.blocks == wanted.blocks
        for name, values in one.blocks.items():
            assert values == [getattr(block, name) for block in wanted.blocks]
    assert (folder / "out" / "dynamics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_trackers_are_told(trained):
    folder, trainer, keep = trained
    told = [(step, logs) for step, logs in keep.logs if MEANS[0] in logs]
    assert [step for step, _ in told] == [0, 2, 4, 5]
    assert "train_runtime" in keep.logs[-1][1]  # the last thing that trackers hear
    for (_, logs), one in zip(told, series(folder / "out").scored, strict=True):
        for name in MEANS:
            assert [logs[f"{name}/block_{index}"] for index in range(3)] == one.blocks[name]
            assert logs[name] == pytest.approx(sum(one.blocks[name]) / 3)
    assert [entry["step"] for entry in trainer.state.log_history if MEANS[0] in entry] == [0, 2, 4, 5]


def test_without_a_trainer_the_history_has_the_figures(tmp_path):
    trainer, keep = train(tmp_path, 5, told=False)
    entries = [entry for entry in trainer.state.log_history if MEANS[0] in entry]
    assert [entry["step"] for entry in entries] == [0, 5]
    assert not any(MEANS[0] in logs for _, logs in keep.logs)
    assert len(losses(keep)) == 5


@pytest.mark.slow
def test_a_series_is_continued_from_the_checkpoint(copied):
    """What was scored after the checkpoint is scored again; the rest stays as it is."""
    out = copied / "out"
    before, report = series(out).scored, (out / "2" / "report.json").read_bytes()
    train(copied, 3, out, start=str(copied / "checkpoint-2"), max_steps=4)
    after = series(out)
    assert after.steps == [0, 2, 3, 4]
    assert after.scored[:2] == before[:2]
    assert after.scored[3].blocks == before[2].blocks
    assert (out / "2" / "report.json").read_bytes() == report
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["0", "2", "3", "4"]


@pytest.mark.slow
def test_a_new_training_does_not_touch_a_series(copied):
    out = copied / "out"
    before = (out / "dynamics.json").read_text()
    with pytest.raises(LinscoreError, match="holds a series already"):
        train(copied, 2, out)
    trainer = Trainer(model=tiny("gpt2"), args=arguments(copied, max_steps=6), train_dataset=Texts(32))
    trainer.add_callback(LinearityCallback(batches()[:3], 2, out))
    with pytest.raises(LinscoreError, match="another model or text"):
        trainer.train(resume_from_checkpoint=str(copied / "checkpoint-4"))
    assert (out / "dynamics.json").read_text() == before


@pytest.mark.slow
def test_one_short_sequence_leaves_a_fold_empty(tmp_path):
    """Then there is no held-out figure, and no error either."""
    trainer = Trainer(model=tiny("gpt2"), args=arguments(tmp_path, max_steps=1), train_dataset=Texts())
    trainer.add_callback(LinearityCallback([torch.arange(3, 15)[None]], 1, tmp_path / "out", trainer=trainer))
    trainer.train()
    scored = series(tmp_path / "out").scored[-1]
    assert scored.blocks["linearity_heldout"] == [None] * 3
    assert not any("linearity_heldout" in entry for entry in trainer.state.log_history)


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
