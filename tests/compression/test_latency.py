"""What forms save of the time; the clock is one that counts products, which is hand-worked here."""

import json

import pytest
import torch
from decoders import decoder_of, sub_blocks_of
from tiny_models import VOCABULARY, shared

from linscore.compression import latency
from linscore.compression.budget import Budget, task
from linscore.compression.choices import Form
from linscore.compression.latency import unit_latency
from linscore.compression.rows import unit_rows
from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreError
from linscore.models.latency import Workload, call_of
from linscore.options.cut import CompressOptions
from linscore.spans import Unit
from linscore.surgery.linearize import replace_units

pytestmark = pytest.mark.usefixtures("one_thread")
BLOCK, MLP, ATTENTION = (Unit.parse(f"1{part}") for part in ("", ".mlp", ".attention"))


@pytest.fixture(scope="module")
def rows():
    ids = torch.randint(3, VOCABULARY, (2, 24, 16), generator=torch.Generator().manual_seed(1))
    batches = [{"input_ids": one, "folds": torch.full((24,), fold)} for fold, one in enumerate(ids)]
    return unit_rows(decoder_of("llama"), batches, sub_blocks_of("llama"), 2, print, gradients=False)


def parameters(model):
    return float(sum(p.numel() for p in model.parameters()))


@pytest.mark.slow
def test_what_all_of_a_kind_save_is_shared_out_and_meets_a_budget(rows, monkeypatch):
    """Where the time is the number of parameters, each form saves what it does not hold."""
    decoder = decoder_of("llama")
    whole = parameters(decoder.model)
    monkeypatch.setattr(latency, "timed", lambda _whole, cut, _workload: (whole, parameters(cut) / whole))
    found = unit_latency(decoder, rows, Workload.parse("decode"), print)
    assert found.workload == "decode:1x512"
    assert found.whole == parameters(decoder.model)
    for unit in (BLOCK, MLP, ATTENTION):
        assert found.saves(unit, Form("drop")) == pytest.approx(rows[unit].parameters)
        left = rows[unit].parameters - rows[unit].holds(Form("affine"))
        assert found.saves(unit, Form("affine")) == pytest.approx(max(0, left), abs=1e-6)
    budget = Budget.of(CompressOptions(latency=0.9, latency_of="decode"))
    goal = task(budget, decoder, rows, 1.0, found)
    assert goal.enough == pytest.approx(0.1 * parameters(decoder.model))
    assert budget.describe() == "latency 0.9 of decode:1x512"
    assert json.dumps(found.saved)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_a_call_runs_the_tokens_that_are_asked_for(kind):
    cut = replace_units(shared("llama"), {MLP: None, ATTENTION: None})
    for decoder in (decoder_of("llama"), find_decoder(cut)):
        seen = []
        hook = decoder.blocks[0].register_forward_pre_hook(
            lambda _block, args, kwargs, seen=seen: seen.append(tuple((args or [kwargs["hidden_states"]])[0].shape)),
            with_kwargs=True,
        )
        call = call_of(decoder, Workload(kind, 2, 7))
        seen.clear()
        call()
        call()
        hook.remove()
        assert [shape[:2] for shape in seen] == [(2, 7 if kind == "prefill" else 1)] * 2


def test_what_cannot_be_timed_is_refused():
    for wrong in ("train", "decode:0x5", "decode:4", "prefill:1x"):
        with pytest.raises(LinscoreError, match="is unknown: write prefill or decode"):
            Budget.of(CompressOptions(latency=0.9, latency_of=wrong))
    with pytest.raises(LinscoreError, match="has 64 positions, give fewer tokens"):
        call_of(decoder_of("gpt2"), Workload("prefill", 1, 64))
