"""The job of `linscore compress`: what it saves is what its search measured, and a killed one goes on to the same."""

import dataclasses
import json
import math

import pytest
import torch
from tiny_models import tiny
from transformers import AutoTokenizer

import linscore
from linscore.compression.choices import forms_of
from linscore.compression.latency import Latency
from linscore.embedded.shipped import EMBEDDED_MODEL
from linscore.errors import Interrupted, LinscoreError
from linscore.jobs import compress, compress_heal, compress_saved
from linscore.jobs.compress import Result, run_compress
from linscore.jobs.compress_search import read_texts
from linscore.jobs.score import run_score
from linscore.models.load import load_pretrained
from linscore.options.cut import CompressOptions, CutOptions
from linscore.options.place import PlaceOptions
from linscore.options.score import ScoreOptions
from linscore.options.text import TextOptions
from linscore.surgery.record import Record
from linscore.text.source import Text

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = PlaceOptions(device="cpu")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A decoder of two blocks, and a text of its own."""
    folder = tmp_path_factory.mktemp("given")
    tiny("llama", vocab_size=2048, num_hidden_layers=2).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(folder / "model")
    path = folder / "text.txt"
    path.write_text("".join(f"def f{n}(x, y={n}):\n    return x * {n * 7 % 13} + y\n" for n in range(160)))
    return str(folder / "model"), TextOptions(text=str(path), seq_len=16, batch_size=32)


def run(given, out, resume=False, place=CPU, say=lambda _line: None, **wanted):
    model, text = given
    cut = CutOptions(**{name: wanted.pop(name) for name in ("by", "moments") if name in wanted})
    options = CompressOptions(**{"params": 0.7, "measure_tokens": 128} | wanted)
    more = {"cut": cut, "text": text, "place": place, "resume": resume, "progress": say}
    return run_compress(model, out=str(out), wanted=options, **more)


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    return run(given, tmp_path_factory.mktemp("compressed") / "out")


def loss_of(folder, given):
    """Transformers' own loss of a saved model on the text that reports."""
    loaded = load_pretrained(given[0], device="cpu")
    texts = read_texts(loaded, Text(given[1]), 128)
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
def test_a_figure_chooses_without_a_trial_and_the_losses_are_reported(given, tmp_path):
    done = run(given, tmp_path / "out", by="expected_loss", heal="none")
    result = done.result
    assert (result.by, result.trials, result.passes, result.tokens["measured"]) == ("expected_loss", 0, 0, 0)
    assert result.steps[-1]["saved"] >= 0.3
    assert result.steps[0]["loss"] == 0 < result.steps[-1]["loss"]
    assert loss_of(done.out, given) == pytest.approx(result.losses["cut"], rel=1e-6)
    assert not (tmp_path / "out" / "measured.jsonl").exists()


@pytest.mark.slow
def test_a_score_alone_is_enough_to_choose_by(given, tmp_path):
    model, text = given
    run_score(model, out=str(tmp_path / "scored"), text=text, place=CPU, scoring=ScoreOptions(sub_blocks=True))
    said = []
    done = run((model, TextOptions()), tmp_path / "out", moments=str(tmp_path / "scored"), say=said.append)
    assert (done.result.by, done.result.losses, done.result.healed) == ("block_influence", {}, "none")
    assert said[-1] == "there is no text to heal on: left out"
    assert not any("only whole blocks" in line for line in said)
    assert done.result.steps[-1]["saved"] >= 0.3
    assert done.record.moments["text"] == text.text
    with pytest.raises(LinscoreError, match="no text to heal on"):
        run((model, TextOptions()), tmp_path / "more", moments=str(tmp_path / "scored"), heal="3")
    with pytest.raises(LinscoreError, match="there is no expected_loss without gradients"):
        run((model, TextOptions()), tmp_path / "more", moments=str(tmp_path / "scored"), by="expected_loss")


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
        ({"heal": "all"}, "`heal=all` is unknown"),
        ({"heal": "0"}, "`heal=0` is unknown"),
        ({"measured": "nowhere"}, "no compress.json in nowhere"),
        ({"by": "rows"}, "rows does not say"),
        ({"by": "bi", "measured": "nowhere"}, "`measured` holds losses, and block_influence chooses without any"),
        ({"by": "bi", "params": None, "loss": 0.1}, "block_influence says nothing of nats"),
        ({"by": "perplexity", "moments": "nowhere"}, "is measured on a text: leave out `moments`"),
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
def test_a_latency_is_measured_once_a_run_and_of_what_is_saved(done, given, tmp_path, monkeypatch):
    def timed(decoder, rows, workload, _say):
        forms = {str(form): share for form in forms_of(decoder.width)}
        return Latency(str(workload), 1.0, {str(unit): forms for unit in rows})

    share = 0.1
    monkeypatch.setattr(compress, "unit_latency", timed)
    monkeypatch.setattr(compress_saved, "seconds", lambda *_of: (1.0, 0.75))
    found = run(given, tmp_path / "out", params=None, latency=0.85, measured=str(done.out), heal="none")
    assert found.result.latency == {
        "whole": 1.0,
        "summed": pytest.approx(1 - found.record.compressed["saved"]),
        "cut": 0.75,
    }
    assert found.result.steps[-1]["saved"] >= 0.15
    assert found.result.budget == "latency 0.85 of decode:1x512"
    share = 0.01
    with pytest.raises(LinscoreError, match="of the time of decode:1x512: give more"):
        run(given, tmp_path / "more", params=None, latency=0.5, measured=str(done.out))


@pytest.mark.slow
def test_a_text_that_does_not_fill_its_folds_is_refused(given, tmp_path):
    short = dataclasses.replace(given[1], tokens=32)
    with pytest.raises(LinscoreError, match="4 folds need at least 4"):
        run((given[0], short), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [{"kv": 0.6}, {"memory": "550KB"}, {"loss": 0.05}])
def test_every_budget_is_met(given, tmp_path, wanted):
    done = run(given, tmp_path / "out", params=None, **wanted)
    record, losses = done.record, done.result.losses
    if "kv" in wanted:
        assert record.kv_bytes_per_token <= 0.6 * record.kv_bytes_per_token_before
    if "memory" in wanted:
        model = linscore.load(str(done.out))
        assert sum(p.numel() * p.element_size() for p in model.parameters()) <= 550_000
    if "loss" in wanted:
        last = done.result.steps[-1]
        assert last["saved"] > 0
        assert last["loss"] - done.result.steps[0]["loss"] <= 0.05
    assert math.isfinite(losses["healed"])
