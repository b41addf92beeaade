"""Healing in closed form; the oracle fits projections by least squares over stacked rows, in float64."""

import copy

import numpy as np
import pytest
import torch
from decoders import decoder_of, states_of, sub_blocks_of
from tiny_models import VOCABULARY

from linscore.compression.choices import Form
from linscore.compression.heal import add_change, heal
from linscore.compression.trials import Replaced, stand_in
from linscore.decoder.find import find_decoder
from linscore.decoder.mlp_output import in_out_weight
from linscore.decoder.projections import find_projections
from linscore.decoder.run import run, watch
from linscore.spans import Unit

pytestmark = pytest.mark.usefixtures("one_thread")


def batches(rows=24):
    ids = torch.randint(3, VOCABULARY, (2, rows, 16), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": one, "folds": torch.full((rows,), fold)} for fold, one in enumerate(ids)]


def healed(family, choice):
    decoder = decoder_of(family)
    before = copy.deepcopy(decoder.model.state_dict())
    found = heal(decoder, sub_blocks_of(family), choice, batches())
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
    return decoder, found


@pytest.mark.parametrize(
    ("family", "attention", "mlp"),
    [
        ("llama", "self_attn.o_proj", "mlp.down_proj"),
        ("gpt2", "attn.c_proj", "mlp.c_proj"),
        ("gemma2", None, None),
        ("bloom", "self_attention.dense", "mlp.dense_4h_to_h"),
    ],
)
def test_projections_are_found_where_they_give_the_contribution_as_it_is(family, attention, mlp):
    found = find_projections(decoder_of(family), sub_blocks_of(family))
    assert {found.get((1, "attention")), found.get((1, "mlp"))} == {attention, mlp}


def test_a_projection_is_the_ridge_regression_of_what_the_state_lacks():
    decoder, found = healed("llama", {Unit.parse("0"): Form("drop")})
    change = found.changes[Unit.parse("1.attention")]
    p, lacks = _rows_of_attention(decoder)
    penalty = change.fitted.ridge * np.diag(np.diag(p.T @ p))
    expected = np.linalg.solve(p.T @ p + penalty, p.T @ lacks)
    assert change.bias is None
    np.testing.assert_allclose(change.weight.numpy(), expected, atol=1e-4 * np.abs(expected).max())


def _rows_of_attention(decoder):
    """What enters block 1's attention projection with block 0 gone, and what the state behind it lacks."""
    entered, there, lacking = [], [], []
    hook = decoder.blocks[1].self_attn.o_proj.register_forward_pre_hook(lambda _m, args: entered.append(args[0]))
    subs = sub_blocks_of("llama")
    for batch in batches():
        entered.clear()
        original = states_of(decoder, batch["input_ids"], sub_blocks=subs)[1]
        entered.clear()
        cut = {}
        with Replaced(decoder, subs).by({Unit.parse("0"): None}):
            entered.clear()
            with watch(decoder, cut.__setitem__, [1], subs):
                run(decoder, batch["input_ids"])
        there.append(entered[-1].flatten(0, 1))
        lacking.append((original.x + original.attention - cut[1].x - cut[1].attention).flatten(0, 1))
    hook.remove()
    return torch.cat(there).double().numpy(), torch.cat(lacking).double().numpy()


def test_what_stands_before_dropped_blocks_takes_over_what_they_added():
    decoder, found = healed("llama", {Unit.parse("1"): Form("drop"), Unit.parse("2"): Form("drop")})
    assert found.changes.keys() == {Unit.parse("0.mlp")}
    change = found.changes[Unit.parse("0.mlp")]
    p, lacks = _rows_of_mlp(decoder)
    penalty = change.fitted.ridge * np.diag(np.diag(p.T @ p))
    expected = np.linalg.solve(p.T @ p + penalty, p.T @ lacks)
    np.testing.assert_allclose(change.weight.numpy(), expected, atol=1e-4 * np.abs(expected).max())


def _rows_of_mlp(decoder):
    """What enters block 0's MLP projection, and what blocks 1 and 2 add to the state behind it."""
    entered, lacking = [], []
    hook = decoder.blocks[0].mlp.down_proj.register_forward_pre_hook(lambda _m, args: entered.append(args[0]))
    for batch in batches():
        states = states_of(decoder, batch["input_ids"])
        lacking.append((states[2].y - states[0].y).flatten(0, 1))
    hook.remove()
    return torch.cat([one.flatten(0, 1) for one in entered]).double().numpy(), torch.cat(lacking).double().numpy()


def test_attention_takes_over_what_a_dropped_mlp_added():
    decoder, found = healed("gpt2", {Unit.parse("2.mlp"): Form("drop")})
    assert found.changes.keys() == {Unit.parse("2.attention")}
    change, last = found.changes[Unit.parse("2.attention")], len(decoder.blocks) - 1
    assert last == 2
    ids = batches()[0]["input_ids"]
    wanted = states_of(decoder, ids)[2].y
    plain = _last(decoder, "gpt2", {Unit.parse("2.mlp"): None}, ids)
    other = find_decoder(copy.deepcopy(decoder.model))
    add_change(other.blocks[2].get_submodule(change.path), change)
    better = _last(other, "gpt2", {Unit.parse("2.mlp"): None}, ids)
    assert float((better - wanted).norm()) < 0.95 * float((plain - wanted).norm())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_states_come_nearer_to_the_original_and_never_go_further(family):
    choice = {Unit.parse("0.mlp"): Form("rank", 2), Unit.parse("1.attention"): Form("drop")}
    decoder, found = healed(family, choice)
    assert found.maps.keys() == choice.keys()
    ids = batches()[0]["input_ids"]
    last = len(decoder.blocks) - 1
    wanted = states_of(decoder, ids)[last].y
    like = next(decoder.blocks.parameters())
    cut = {unit: stand_in(fitted, like) for unit, fitted in found.maps.items()}
    plain = _last(decoder, family, cut, ids)
    other = find_decoder(copy.deepcopy(decoder.model))
    for unit, change in found.changes.items():
        projection = other.blocks[unit.span.first].get_submodule(change.path)
        add_change(projection, change)
        assert in_out_weight(projection).shape == change.weight.shape
    better = _last(other, family, cut, ids)
    assert float((better - wanted).norm()) <= float((plain - wanted).norm())
    if family != "gemma2":  # whose projections a norm follows: only maps are fitted
        assert found.changes.keys() >= {Unit.parse("1.mlp"), Unit.parse("2.mlp"), Unit.parse("2.attention")}


def _last(decoder, family, cut, ids):
    states = {}
    last = len(decoder.blocks) - 1
    with Replaced(decoder, sub_blocks_of(family)).by(cut), watch(decoder, states.__setitem__, [last]):
        run(decoder, ids)
    return states[last].y
