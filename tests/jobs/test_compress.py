"""The job of `linscore compress`: what it saves is what its search measured, and a killed one goes on to the same."""

import json
import math

import pytest
import torch
from compressing import loss_of, prepare, run

import linscore
from linscore.errors import Interrupted, LinscoreError
from linscore.jobs import compress, compress_heal
from linscore.jobs.compress import Result
from linscore.surgery.record import Record

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    return run(given, tmp_path_factory.mktemp("compressed") / "out")


@pytest.mark.slow
def test_the_saved_model_has_the_loss_that_was_reported_and_holds_what_was_asked_for(done, given):
    assert loss_of(done.out, given) == pytest.approx(done.result.losses["healed"], rel=1e-6)
    record = Record.load(done.out)
    whole = linscore.load(given[0])
    blocks = sum(p.numel() for p in whole.model.layers.parameters())
    others = record.parameters_before - blocks
    assert record.parameters - others <= 0.7 * blocks
    assert record.operation == "compress"
    assert record.compressed["saved"] == pytest.approx(
        (record.parameters_before - record.parameters) / blocks, abs=0.02
    )
    result = json.loads((done.out / "compress.json").read_text())
    assert result["steps"][-1]["saved"] >= 0.3
    assert result["trials"] == len((done.out / "measured.jsonl").read_text().splitlines())
    assert math.isfinite(done.result.losses["cut"])


@pytest.mark.slow
def test_healing_that_costs_more_on_the_text_that_chooses_is_left_out(given, tmp_path, monkeypatch):
    measure, harm, said = compress_heal.left_out_losses, iter([{None: math.inf}]), []
    monkeypatch.setattr(compress_heal, "left_out_losses", lambda *of: next(harm, None) or measure(*of))
    done = run(given, tmp_path / "out", say=said.append)
    assert said[-1] == "healing (closed) costs more on the text that chooses: left out"
    assert done.result.losses["healed"] == pytest.approx(done.result.losses["cut"], rel=1e-6)
    assert loss_of(done.out, given) == pytest.approx(done.result.losses["cut"], rel=1e-6)


@pytest.mark.slow
def test_a_cut_that_is_not_healed_has_the_loss_of_its_trial(given, tmp_path):
    done = run(given, tmp_path / "out", heal="none")
    assert done.result.losses["healed"] == pytest.approx(done.result.losses["cut"], rel=1e-6)
    assert loss_of(done.out, given) == pytest.approx(done.result.losses["cut"], rel=1e-6)


@pytest.mark.slow
def test_steps_of_healing_train_what_was_touched_and_stay_where_they_lose_less(done, given, tmp_path):
    healed = run(given, tmp_path / "out", measured=str(done.out), heal="6")
    assert (healed.result.trials, healed.result.steps) == (0, done.result.steps)
    assert healed.result.healed == healed.record.compressed["healed"] == "6"
    assert healed.result.losses["healed"] < healed.result.losses["cut"]
    assert loss_of(healed.out, given) == pytest.approx(healed.result.losses["healed"], rel=1e-6)
    before, after = (linscore.load(str(folder)).state_dict() for folder in (done.out, healed.out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    touched = {name for one in healed.record.replacements for name in one.parameters}
    assert all(name in touched or name.endswith(("o_proj.weight", "down_proj.weight")) for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["heal", "distil"])
def test_ctrl_c_while_healing_leaves_what_there_is_and_says_so(done, given, tmp_path, monkeypatch, at):
    def interrupt(*_of, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(compress_heal, at, interrupt)
    with pytest.raises(Interrupted, match="holds the cut, not healed to the end"):
        run(given, tmp_path / "out", measured=str(done.out), heal="6")
    assert json.loads((tmp_path / "out" / "compress.json").read_text())["healed"] == (
        "none" if at == "heal" else done.result.healed
    )
    assert linscore.load(str(tmp_path / "out")) is not None
    assert not (tmp_path / "out.search").exists()


@pytest.mark.slow
def test_every_point_of_a_curve_can_be_saved_without_another_trial(done, given, tmp_path):
    whole = run(given, tmp_path / "whole", steps=True, heal="none", measured=str(done.out))
    assert whole.result.steps == done.result.steps
    curve = whole.result.curve
    assert [point["saved"] for point in curve] == sorted({point["saved"] for point in curve})
    assert curve[0]["choice"] == {}
    assert curve[-1]["saved"] > whole.result.steps[-1]["saved"]
    point = curve[len(curve) // 2]
    share = 1 - point["saved"] + 1e-9
    saved = run(given, tmp_path / "point", params=share, heal="none", measured=str(tmp_path / "whole"))
    assert saved.result.trials == 0
    assert saved.result.steps[-1]["saved"] >= point["saved"] - 1e-6
    assert saved.result.steps[-1]["loss"] <= point["loss"]
    nats = run(given, tmp_path / "nats", params=None, loss=0.05, heal="none", measured=str(tmp_path / "whole"))
    assert nats.result.trials == 0
    assert nats.result.steps[-1]["loss"] <= nats.result.steps[0]["loss"] + 0.05


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_choice(done, given, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        break_at(patch, 4, RuntimeError("killed"))
        with pytest.raises(RuntimeError, match="killed"):
            run(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(LinscoreError, match="exists: `resume` the run in it"):
        run(given, tmp_path / "out")
    again = run(given, tmp_path / "out", resume=True)
    assert again.result.steps == done.result.steps
    assert again.result.trials == done.result.trials - 4
    assert not (tmp_path / "out.search").exists()


def break_at(patch, number, error):
    add = compress.add_loss

    def adds(folder, count, choice, loss):
        add(folder, count, choice, loss)
        if count == number - 1:
            raise error

    patch.setattr(compress, "add_loss", adds)


@pytest.mark.slow
def test_ctrl_c_leaves_the_best_so_far_and_what_was_measured_serves_another_search(done, given, tmp_path, monkeypatch):
    reached = len(done.result.steps)
    assert reached > 1
    with monkeypatch.context() as patch:
        break_at(patch, done.result.trials - 1, KeyboardInterrupt())
        with pytest.raises(Interrupted, match="holds the best so far"):
            run(given, tmp_path / "out")
    best = Result(**json.loads((tmp_path / "out" / "compress.json").read_text()))
    assert 1 < len(best.steps) <= reached
    assert linscore.load(str(tmp_path / "out")) is not None
    more = run(given, tmp_path / "more", measured=str(tmp_path / "out"))
    assert more.result.steps == done.result.steps
    assert more.result.trials < 3
