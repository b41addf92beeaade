"""Which checkpoints of a training are whole, and which are kept."""

import json

import pytest
import torch
from safetensors.torch import save_file

from linscore.pretraining.checkpoints import any_checkpoint, keep_newest, newest_checkpoint, remove_damaged

DAMAGES = {
    "state": lambda path: (path / "trainer_state.json").write_text(""),
    "no state": lambda path: (path / "trainer_state.json").unlink(),
    "state of another": lambda path: (path / "trainer_state.json").write_text('{"global_step": 5}'),
    "weights": lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-9]),
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "optimizer": lambda path: (path / "optimizer.pt").write_bytes((path / "optimizer.pt").read_bytes()[:-60]),
    "random states": lambda path: (path / "rng_state.pth").write_bytes(b""),
}


@pytest.fixture
def folder(tmp_path):
    """A run with checkpoints at steps 5, 10 and 15."""
    for step in (5, 10, 15):
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        save_file({"a": torch.zeros(4)}, path / "model.safetensors")
        for name in ("optimizer.pt", "rng_state.pth"):
            torch.save({"a": torch.zeros(4)}, path / name)
        (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (tmp_path / "checkpoint-best").mkdir()
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_one_is_gone_on_from_and_newer_ones_are_named(folder, damage):
    skipped = []
    assert newest_checkpoint(folder, skipped.append) == folder / "checkpoint-15"
    DAMAGES[damage](folder / "checkpoint-15")
    assert newest_checkpoint(folder, skipped.append) == folder / "checkpoint-10"
    assert skipped == [folder / "checkpoint-15"]


def test_where_none_is_whole_the_newest_is_named(folder):
    for step in (5, 10, 15):
        DAMAGES["weights"](folder / f"checkpoint-{step}")
    assert newest_checkpoint(folder) is None
    assert any_checkpoint(folder) == folder / "checkpoint-15"
    assert any_checkpoint(folder / "checkpoint-best") is None


@pytest.mark.parametrize(("number", "kept"), [(None, [5, 10, 15]), (2, [5, 10, 15]), (1, [10, 15])])
def test_whole_ones_are_counted(folder, number, kept):
    """15 is damaged: it does not take the place of one to go on from."""
    DAMAGES["state"](folder / "checkpoint-15")
    keep_newest(folder, number)
    assert names(folder) == sorted([*(f"checkpoint-{step}" for step in kept), "checkpoint-best"])


def test_only_what_is_damaged_makes_room(folder):
    DAMAGES["optimizer"](folder / "checkpoint-15")
    for step in (10, 15, 20):
        remove_damaged(folder / f"checkpoint-{step}")
    assert names(folder) == ["checkpoint-10", "checkpoint-5", "checkpoint-best"]
