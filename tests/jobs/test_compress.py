"""The job of `linscore compress`: what it saves is what its search measured, and a killed one goes on to the same."""

import dataclasses
import json
import math

import pytest
import torch

import linscore
from linscore.errors import Interrupted, LinscoreError
from linscore.jobs import compress
from linscore.jobs.compress import Result, run_compress
from linscore.jobs.compress_search import read_texts
from linscore.models.load import load_pretrained
from linscore.options.cut import CompressOptions
from linscore.options.place import PlaceOptions
from linscore.options.text import TextOptions
from linscore.surgery.record import Record
from linscore.text.source import Text

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = PlaceOptions(device="cpu")


@pytest.fixture(scope="module")
def given(models):
    """A tiny decoder, and a text of its own."""
    path = models / "longer.txt"
    path.write_text("".join(f"def f{n}(x, y={n}):\n    return x * {n * 7 % 13} + y\n" for n in range(160)))
    return str(models / "original"), TextOptions(text=str(path), seq_len=16, batch_size=8)


def run(given, out, resume=False, place=CPU, say=lambda _line: None, **wanted):
    model, text = given
    options = CompressOptions(**{"params": 0.7, "measure_tokens": 256} | wanted)
    return run_compress(model, out=str(out), wanted=options, text=text, place=place, resume=resume, progress=say)


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    return run(given, tmp_path_factory.mktemp("compressed") / "out")


def loss_of(folder, given):
    """Transformers' own loss of a saved model on the text that reports."""
    loaded = load_pretrained(given[0], device="cpu")
    texts = read_texts(loaded, Text(given[1]), 256)
    model, total, count = linscore.load(str(folder), device="cpu"), 0.0, 0
    with torch.no_grad():
        for batch in texts.report:
            ids = batch["input_ids"]
            total += float(model(ids, labels=ids).loss) * ids[:, 1:].numel()
            count += ids[:, 1:].numel()
    return total / count


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
    measure, harm, said = compress.left_out_losses, iter([{None: math.inf}]), []
    monkeypatch.setattr(compress, "left_out_losses", lambda *of: next(harm, None) or measure(*of))
    done = run(given, tmp_path / "out", say=said.append)
    assert said[-1] == "healing costs more on the text that chooses: left out"
    assert done.result.losses["healed"] == pytest.approx(done.result.losses["cut"], rel=1e-6)
    assert loss_of(done.out, given) == pytest.approx(done.result.losses["cut"], rel=1e-6)


@pytest.mark.slow
def test_a_cut_that_is_not_healed_has_the_loss_of_its_trial(given, tmp_path):
    done = run(given, tmp_path / "out", heal="none")
    assert done.result.losses["healed"] == pytest.approx(done.result.losses["cut"], rel=1e-6)
    assert loss_of(done.out, given) == pytest.approx(done.result.losses["cut"], rel=1e-6)


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


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"params": None}, "no budget given"),
        ({"kv": 0.5}, "`params` and `kv` given"),
        ({"params": 1.5}, "`params=1.5` is no share that stays"),
        ({"params": None, "loss": -1.0}, "`loss=-1.0` is no loss"),
        ({"params": None, "memory": "much"}, "`memory=much` is no number of bytes"),
        ({"heal": "all"}, "`heal` is 'all'"),
        ({"measured": "nowhere"}, "no compress.json in nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(given, tmp_path, wanted, said):
    with pytest.raises(LinscoreError, match=said):
        run(("no such model", given[1]), tmp_path / "out", **wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"params": 1e-6}, "more than can go"),
        ({"params": None, "memory": "1KB"}, "are no blocks and stay"),
        ({"params": None, "memory": "6GB"}, "give less than that"),
    ],
)
def test_what_the_decoder_cannot_give_is_refused_before_anything_is_measured(given, tmp_path, wanted, said):
    with pytest.raises(LinscoreError, match=said):
        run(given, tmp_path / "out", **wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_text_that_does_not_fill_its_folds_is_refused(given, tmp_path):
    short = dataclasses.replace(given[1], tokens=32)
    with pytest.raises(LinscoreError, match="4 folds need at least 4"):
        run((given[0], short), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [{"kv": 0.6}, {"memory": "600KB"}, {"loss": 0.05}])
def test_every_budget_is_met(given, tmp_path, wanted):
    done = run(given, tmp_path / "out", params=None, **wanted)
    record, losses = done.record, done.result.losses
    if "kv" in wanted:
        assert record.kv_bytes_per_token <= 0.6 * record.kv_bytes_per_token_before
    if "memory" in wanted:
        model = linscore.load(str(done.out))
        assert sum(p.numel() * p.element_size() for p in model.parameters()) <= 600_000
    if "loss" in wanted:
        last = done.result.steps[-1]
        assert last["saved"] > 0
        assert last["loss"] - done.result.steps[0]["loss"] <= 0.05
    assert math.isfinite(losses["healed"])
