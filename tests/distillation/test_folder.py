"""The folder of a run: a curve that an interruption does not change, and checkpoints that are damaged."""

import copy
import json

import pytest
import torch
from distilling import LINEAR, PAIRS, batches, distil, linear_student
from tiny_models import tiny

from linscore.errors import LinscoreError

pytestmark = pytest.mark.usefixtures("one_thread")


def kill_at(step):
    def progress(loss):
        if loss.step == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path, mode):
    """Bit for bit, with dropout too: the random state is part of a checkpoint."""
    teacher = tiny("gpt2")
    given = {
        "pairs": PAIRS,
        "steps": 7,
        "kl": 0.5,
        "parameters": ["transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight"],
    }
    students = [getattr(copy.deepcopy(teacher), mode)() for _ in range(3)]
    with torch.no_grad():
        for student in students:
            student.transformer.h[1].mlp.c_fc.weight.mul_(0.5)
    torch.manual_seed(1)
    whole = distil(students[0], teacher, batches(), **given)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        distil(students[1], teacher, batches(), folder=tmp_path, save_every=2, progress=kill_at(5), **given)
    assert [path.name for path in tmp_path.glob("*step*")] == ["step_4"]
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 5
    torch.manual_seed(2)
    resumed = distil(students[2], teacher, batches(), folder=tmp_path, save_every=2, resume=True, **given)
    assert resumed == whole
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert lines == [vars(loss) for loss in whole]
    for name, value in students[0].state_dict().items():
        assert torch.equal(value, students[2].state_dict()[name]), name
    assert (students[1].training, students[2].training) == (mode == "train", mode == "train")


def test_a_checkpoint_holds_trained_parameters_only_and_the_older_one_goes(teacher, tmp_path):
    from safetensors.torch import load_file

    distil(
        linear_student(teacher),
        teacher,
        batches(),
        pairs=PAIRS,
        steps=4,
        parameters=LINEAR,
        folder=tmp_path,
        save_every=3,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.jsonl", "step_4"]
    saved = load_file(tmp_path / "step_4" / "model.safetensors")
    assert sorted(name.removeprefix("student.") for name in saved) == sorted(LINEAR)


def test_a_checkpoint_that_was_being_written_is_no_checkpoint(teacher, tmp_path, monkeypatch):
    given = {"pairs": PAIRS, "steps": 4, "parameters": LINEAR, "folder": tmp_path, "save_every": 1}
    from accelerate import Accelerator

    save = Accelerator.save_state

    def full(self, folder):
        if folder.endswith("step_3"):
            save(self, folder)
            raise OSError("No space left on device")
        return save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "save_state", full)
        with pytest.raises(OSError, match="No space"):
            distil(linear_student(teacher), teacher, batches(), **given)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_2"]
    resumed = distil(linear_student(teacher), teacher, batches(), resume=True, **given)
    del given["folder"], given["save_every"]
    assert resumed == distil(linear_student(teacher), teacher, batches(), **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.jsonl", "step_4"]


def test_a_finished_run_can_be_resumed_to_nothing_more(teacher, tmp_path):
    given = {"pairs": PAIRS, "steps": 2, "parameters": LINEAR, "folder": tmp_path}
    students = [linear_student(teacher) for _ in range(2)]
    curve = distil(students[0], teacher, batches(), **given)
    assert distil(students[1], teacher, batches(), resume=True, **given) == curve
    assert torch.equal(students[0].model.layers[1].weight, students[1].model.layers[1].weight)


def test_a_run_that_is_there_is_not_begun_anew_nor_resumed_with_other_parameters(teacher, tmp_path):
    given = {"pairs": PAIRS, "steps": 2, "folder": tmp_path}
    distil(linear_student(teacher), teacher, batches(), parameters=LINEAR, **given)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(LinscoreError, match="holds a run already"):
        distil(linear_student(teacher), teacher, batches(), parameters=LINEAR, **given)
    with pytest.raises(LinscoreError, match="damaged or of another model"):
        distil(linear_student(teacher), teacher, batches(), resume=True, **given)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_damaged_curve_is_one_line(teacher, tmp_path):
    given = {"pairs": PAIRS, "steps": 2, "folder": tmp_path, "parameters": LINEAR}
    distil(linear_student(teacher), teacher, batches(), **given)
    for content, words in ((b"{]\n{]\n", "damaged"), (b"\xff\n", "damaged"), (b"", "steps 1 to 2")):
        (tmp_path / "losses.jsonl").write_bytes(content)
        with pytest.raises(LinscoreError, match=words):
            distil(linear_student(teacher), teacher, batches(), resume=True, **given)


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"", b"{]"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl"])
def test_a_damaged_checkpoint_is_one_line_and_stays(teacher, tmp_path, name, content):
    """Cut to half, empty, or something else."""
    given = {"pairs": PAIRS, "steps": 2, "folder": tmp_path, "parameters": LINEAR}
    distil(linear_student(teacher), teacher, batches(), **given)
    file = tmp_path / "step_2" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content is None else content)
    with pytest.raises(LinscoreError, match="step_2 is damaged or of another model") as caught:
        distil(linear_student(teacher), teacher, batches(), resume=True, **given)
    assert "\n" not in str(caught.value)
    assert file.exists()
