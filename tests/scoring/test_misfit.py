"""Text and model that do not fit each other are said so; what tokens were scored can be told from the report."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from oracles import states
from tiny_models import tiny

import linscore
from linscore.scoring.report import BlockReport
from linscore.scoring.warnings import find_warnings

IDS = torch.randint(3, 60, (6, 24), generator=torch.Generator().manual_seed(0))


def biased(model, tokens):
    """The model, sure that every token is one of `tokens`."""
    size = model.config.vocab_size
    model.lm_head = torch.nn.Linear(model.config.hidden_size, size)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.fill_(-20.0)[tokens] = 0.0
    return model


@pytest.mark.parametrize(("tokens", "kinds"), [(IDS.unique(), set()), (torch.tensor([0, 1]), {"text_does_not_fit"})])
def test_a_text_that_costs_more_than_guessing_is_warned_of(tokens, kinds):
    report = linscore.score(biased(tiny("llama"), tokens), [IDS])
    assert {one.kind for one in report.warnings} & {"text_does_not_fit"} == kinds
    logits = torch.full((64,), -20.0, dtype=torch.float64)
    logits[tokens] = 0.0
    expected = (logits.exp().sum().log() - logits[IDS[:, 1:]]).mean().item()
    assert report.loss == pytest.approx(expected, rel=1e-5)
    assert (expected > math.log(64)) == bool(kinds)


def test_padding_does_not_count_in_the_loss_and_a_bare_decoder_has_none():
    model = tiny("llama")
    mask = torch.ones_like(IDS)
    mask[:, 20:] = 0
    padded = linscore.score(model, [{"input_ids": IDS, "attention_mask": mask}])
    assert padded.loss == pytest.approx(linscore.score(model, [IDS[:, :20]]).loss, rel=1e-6)
    assert linscore.score(model.model, [IDS]).loss is None


def test_the_digest_is_that_of_the_ids_whatever_batches_they_come_in():
    model = tiny("llama")
    expected = hashlib.sha256(IDS.numpy().tobytes()).hexdigest()
    for batches in ([IDS], list(IDS.split(2)), [{"input_ids": IDS.int()}]):
        assert linscore.score(model, batches).tokens_digest == expected
    assert linscore.score(model, [IDS.flip(0)]).tokens_digest != expected


@pytest.mark.parametrize(("gap", "rows", "kinds"), [(0.6, 100, {"heldout_gap"}), (0.1, 100, set()), (0.6, 30, set())])
def test_held_out_scores_far_below_in_sample_are_warned_of(gap, rows, kinds):
    x, y = states(200, 8)
    figures = replace(linscore.linearity(x, y), linearity_no_residual=0.7, linearity_no_residual_heldout=0.7 - gap)
    block = BlockReport(**vars(replace(figures, rows=rows)), index=3)
    found = [one for one in find_warnings([block], [], width=8, folds=2, nonfinite_rows=0) if one.kind == "heldout_gap"]
    assert {one.kind for one in found} == kinds
    assert all(one.blocks == [3] for one in found)
