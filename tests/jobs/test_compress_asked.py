"""What `linscore compress` is asked for: every budget is met, a figure chooses where it is to, the rest is refused."""

import dataclasses
import math

import pytest
from compressing import CPU, loss_of, prepare, run

import linscore
from linscore.compression.choices import forms_of
from linscore.compression.latency import Latency
from linscore.errors import LinscoreError
from linscore.jobs import compress, compress_saved
from linscore.jobs.score import run_score
from linscore.options.score import ScoreOptions
from linscore.options.text import TextOptions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("given"))


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
def test_a_latency_is_measured_once_a_run_and_of_what_is_saved(given, tmp_path, monkeypatch):
    def timed(decoder, rows, workload, _say):
        forms = {str(form): share for form in forms_of(decoder.width)}
        return Latency(str(workload), 1.0, {str(unit): forms for unit in rows})

    share = 0.1
    monkeypatch.setattr(compress, "unit_latency", timed)
    monkeypatch.setattr(compress_saved, "timed", lambda *_of: (1.0, 0.75))
    found = run(given, tmp_path / "out", params=None, latency=0.85, by="bi", heal="none")
    assert found.result.latency == {
        "whole": 1.0,
        "summed": pytest.approx(1 - found.record.compressed["saved"]),
        "cut": 0.75,
    }
    assert found.result.steps[-1]["saved"] >= 0.15
    assert found.result.budget == "latency 0.85 of decode:1x512"
    share = 0.01
    with pytest.raises(LinscoreError, match="of the time of decode:1x512: give more"):
        run(given, tmp_path / "more", params=None, latency=0.5, by="bi")


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
