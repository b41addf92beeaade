"""The distillation job going on after an interruption."""

import json

import pytest
import torch
from asked import asked
from distil_job import FILES, interrupt_at, job, names, weights

from linscore.errors import LinscoreError
from linscore.jobs.distil import run_distil
from linscore.surgery.record import Record

run_distil = asked(run_distil)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_a_slash_behind_the_folder_is_no_part_of_its_name(place, monkeypatch):
    given = {"text": str(place / "text.txt"), "steps": 6, "batch_size": 2, "seq_len": 16, "save_every": 2}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run_distil(f"{place}/fused", out=f"{place}/out/", device="cpu", **given)
    assert (place / "out.training" / "step_4").is_dir()
    assert not (place / "out").exists()
    run_distil(f"{place}/fused/", out=f"{place}/out/", device="cpu", resume=True, **given)
    assert names(place) >= {"out", "fused"}
    assert not (place / "out.training").exists()


@pytest.mark.slow
def test_a_run_goes_on_from_another_working_directory(place, monkeypatch):
    given = {"steps": 6, "batch_size": 2, "seq_len": 16, "save_every": 2, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.chdir(place)
        interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run_distil("fused", out="out", teacher="original", text="text.txt", **given)
    monkeypatch.chdir(place / "cut")
    teacher, text = "../original", "../text.txt"
    with pytest.raises(LinscoreError, match="begun with `student="):
        run_distil("../cut", out="../out", teacher=teacher, text=text, resume=True, train="all", **given)
    done = run_distil("../fused", out="../out", teacher=teacher, text=text, resume=True, **given)
    assert (done.record.distilled["text"], done.record.distilled["teacher"]) == (text, teacher)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"before": 1}', "", "no before", "wrong before"])
def test_damaged_settings_are_one_line_and_nothing_is_lost(place, monkeypatch, content):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            job(place)
    file = place / "out.training" / "settings.json"
    begun = json.loads(file.read_text())
    without = {key: value for key, value in begun.items() if key != "before"}
    broken = {"no before": without, "wrong before": begun | {"before": dict.fromkeys(begun["before"], "x")}}
    file.write_text(json.dumps(broken[content]) if content in broken else content)
    with pytest.raises(
        LinscoreError, match=r"settings.json is damaged: remove .*out.training and start again"
    ) as caught:
        job(place, resume=True)
    assert "\n" not in str(caught.value)
    assert (place / "out.training" / "step_2").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 6])
def test_an_interrupted_run_goes_on_where_it_was(place, monkeypatch, step):
    job(place, out="whole", kl=1)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            job(place, kl=1)
    assert not (place / "out").exists()
    assert (place / "out.training" / f"step_{step // 2 * 2}").is_dir()
    with pytest.raises(LinscoreError, match="`resume` the run in it"):
        job(place, kl=1)
    with pytest.raises(LinscoreError, match=r"begun with `learning_rate=0.001`, not 0.1"):
        job(place, kl=1, resume=True, learning_rate=0.1)
    job(place, kl=1, resume=True)
    assert not (place / "out.training").exists()
    assert (place / "out" / "losses.jsonl").read_text() == (place / "whole" / "losses.jsonl").read_text()
    assert Record.load(place / "out").distilled == Record.load(place / "whole").distilled
    whole, resumed = weights(place / "whole"), weights(place / "out")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_interruption_before_the_first_checkpoint_leaves_nothing(place, monkeypatch):
    before = names(place)
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        job(place)
    assert names(place) == before


@pytest.mark.slow
def test_a_save_that_fails_does_not_lose_the_training(place, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            job(place)
    assert not (place / "out").exists()
    monkeypatch.setattr("linscore.distillation.distil._Trainer.step", lambda *_, **__: pytest.fail("trained again"))
    job(place, resume=True)
    assert {path.name for path in (place / "out").iterdir()} >= FILES
