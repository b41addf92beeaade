"""A run of `linscore train` that was broken off becomes the unbroken one."""

import shutil

import pytest
import yaml
from pages import called
from train_job import TINY, assert_same_run, broken_at, long_text

from linscore.dynamics.series import Dynamics
from linscore.files.lock import alone_in
from linscore.jobs import train as job

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Of all runs, in a file; for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "text": long_text(folder)}), encoding="utf-8")
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The unbroken run, for tests that leave it as it is."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    called(["linscore", "train", "--config", str(recipe), "--out", str(out)])
    return out


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_anew(run, recipe, whole, tmp_path, monkeypatch):
    options = ("train", "--config", recipe)
    with monkeypatch.context() as patch:
        patch.setattr(job.shutil, "rmtree", lambda *_, **__: None)  # a killed process tidies nothing
        broken_at(patch, 4, KeyboardInterrupt())
        assert run(*options, "--out", tmp_path / "broken")[0] == 130
    code, _, error = run(*options, "--out", tmp_path / "broken", "--resume")
    assert code == 0, error
    assert_same_run(tmp_path / "broken", whole)


@pytest.mark.slow
def test_after_a_power_loss_the_run_goes_on_from_what_is_whole_and_nothing_is_removed(
    run, recipe, whole, tmp_path, monkeypatch
):
    """The newest state is empty; then none is whole, as an older linscore could leave it."""
    options = ("train", "--config", recipe)
    out = tmp_path / "broken"
    with monkeypatch.context() as patch:
        broken_at(patch, 12, KeyboardInterrupt())
        run(*options, "--out", out)
    (out / "checkpoint-10" / "trainer_state.json").write_bytes(b"")
    shutil.copytree(out, tmp_path / "lost")
    code, _, error = run(*options, "--out", out, "--resume")
    assert code == 0, error
    assert f"{out / 'checkpoint-10'} is damaged: going on from an older one" in error.splitlines()
    assert_same_run(out, whole)
    out = tmp_path / "lost"
    (out / "checkpoint-5" / "model.safetensors").write_bytes(b"")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, error = run(*options, "--out", out, "--resume")
    assert (code, error.count("\n")) == (2, 1)
    assert f"no checkpoint in {out} is whole, {out / 'checkpoint-10'} and those before it are damaged" in error
    for checkpoint in out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    code, _, error = run(*options, "--out", out, "--resume")
    assert code == 2
    assert f"{out} holds no checkpoint, but a curve up to step 10" in error
    assert all(path.read_bytes() == content for path, content in before.items() if "checkpoint-" not in str(path))


@pytest.mark.slow
def test_ctrl_c_in_a_run_of_another_process_leaves_it(run, config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("linscore.files.run_folder.shutil.rmtree", lambda *_, **__: None)  # as if it had been killed
        broken_at(patch, 3, KeyboardInterrupt())
        run("train", "--config", config, "--out", out)
    with monkeypatch.context() as patch:
        broken_at(patch, 3, KeyboardInterrupt())
        code, _, error = run("train", "--config", config, "--out", out, "--resume")
    assert code == 130
    assert f"go on anew with --resume, {out} stays" in error
    with alone_in(out):
        code, _, error = run("train", "--config", config, "--out", out, "--resume")
    assert code == 2
    assert "another process" in error
    assert (out / "settings.json").is_file()


@pytest.mark.slow
def test_a_finished_run_is_not_begun_anew(run, recipe, whole, tmp_path):
    """Also where its checkpoints were removed to save space."""
    out = shutil.copytree(whole, tmp_path / "out")
    for checkpoint in out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    before = sorted(out.rglob("*"))
    code, _, error = run("train", "--config", recipe, "--out", out, "--resume")
    assert code == 2
    assert "has come to its end" in error
    assert sorted(out.rglob("*")) == before


@pytest.mark.slow
def test_a_run_killed_behind_its_last_checkpoint_is_finished(run, recipe, whole, tmp_path):
    """The last step is neither trained nor scored again, and another micro-batch is allowed."""
    out = shutil.copytree(whole, tmp_path / "broken")
    shutil.rmtree(out / "model")
    (out / ".part-0-model").mkdir()
    (out / ".part-0-model" / "config.json").write_text("half")
    other = yaml.safe_load(recipe.read_text(encoding="utf-8")) | {"micro_batch": 2}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    code, _, error = run("train", "--config", tmp_path / "other.yaml", "--out", out, "--resume")
    assert code == 0, error
    assert_same_run(out, whole)
    assert Dynamics.load(out / "linearity" / "dynamics.json").steps == [0, 6, 12]
    assert not (out / ".part-0-model").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_or_leaves_nothing(run, config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        broken_at(patch, 8, KeyboardInterrupt())
        code, _, error = run("train", "--config", config, "--out", tmp_path / "late")
    assert code == 130
    assert f"go on from {tmp_path / 'late' / 'checkpoint-5'} with --resume" in error
    with monkeypatch.context() as patch:
        broken_at(patch, 3, KeyboardInterrupt())
        code, _, error = run("train", "--config", config, "--out", tmp_path / "early")
    assert code == 130
    assert "nothing was written" in error
    assert not (tmp_path / "early").exists()


def test_another_recipe_does_not_go_on(run, config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        broken_at(patch, 8, KeyboardInterrupt())
        run("train", "--config", config, "--out", out)
    before = sorted(out.rglob("*"))
    code, _, error = run("train", "--config", config, "--out", out, "--resume", "--seed", 1)
    assert code == 2
    assert "was begun with --seed 0, not 1" in error
    assert sorted(out.rglob("*")) == before
