"""Healing by steps where nothing stands for what is gone."""

from types import SimpleNamespace

import pytest
import torch
from linear_models import tokens
from tiny_models import tiny

from linscore import find_decoder
from linscore.compression.choices import DROP
from linscore.compression.search import Step
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.jobs import compress_heal
from linscore.jobs.compress_heal import heal_cut
from linscore.jobs.compress_texts import Texts
from linscore.spans import Unit


def healed(family, dropped, said, heals="2", blocks=None):
    """What heals a decoder without a block: a search that found that, on random tokens; or without `blocks`."""
    model = tiny(family)
    decoder, batch = find_decoder(model), {"input_ids": tokens(8, 24)}
    fit = [batch | {"folds": torch.full((8,), fold)} for fold in (0, 1)]
    texts = Texts(fit, [batch], [batch])
    row = SimpleNamespace(fitted=lambda _form: None)
    table = SimpleNamespace(rows={dropped: row}, sub_blocks=find_sub_blocks(decoder), trials=object())
    found = SimpleNamespace(table=table, step=Step({dropped: DROP}, 1.0, float("inf")), dropped=blocks)
    return model, heal_cut(SimpleNamespace(model=model, decoder=decoder), texts, found, heals, said.append)


@pytest.mark.slow
@pytest.mark.parametrize("dropped", ["1", "2"])
def test_steps_train_the_projections_around_a_dropped_block_and_nothing_else(dropped):
    said = []
    model, best = healed("llama", Unit.parse(dropped), said)
    assert best.how in ("closed", "2")
    left, whole = find_decoder(best.cut).blocks, find_decoder(model).blocks
    assert len(left) == 2
    before = int(dropped) - 1
    changed = {
        name for name, one in left[before].named_parameters() if not torch.equal(one, whole[before].get_parameter(name))
    }
    assert changed == {"mlp.down_proj.weight"}


@pytest.mark.slow
def test_no_step_is_taken_where_no_projection_adds_to_the_state_as_it_is():
    said = []
    _, best = healed("gemma2", Unit.parse("1"), said)  # a norm follows every projection
    assert len(find_decoder(best.cut).blocks) == 2
    assert said[-1].endswith("no steps of healing")


@pytest.mark.parametrize(("losses", "taken"), [([2.0, 1.0], "1"), ([1.0, 2.0], "0.mlp")])
def test_whole_blocks_take_the_place_of_what_was_found_where_they_lose_less_once_healed(monkeypatch, losses, taken):
    monkeypatch.setattr(compress_heal, "_loss", lambda *_: losses.pop(0))
    said, blocks = [], Step({Unit.parse("1"): DROP}, 1.0, 3.0)
    _, best = healed("llama", Unit.parse("0.mlp"), said, "closed", blocks)
    assert list(best.step.choice) == [Unit.parse(taken)]
    assert best.healed.maps.keys() == best.step.choice.keys()
    assert len(find_decoder(best.cut).blocks) == (2 if taken == "1" else 3)
    assert any("whole blocks" in line for line in said) == (taken == "1")
