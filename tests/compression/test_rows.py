"""What gradients say of a unit; the oracle differentiates the loss by what the unit adds, in float64."""

import pytest
import torch
from decoders import decoder_of, sub_blocks_of
from tiny_models import VOCABULARY

from linscore.compression import rows
from linscore.compression.choices import Form
from linscore.compression.expected import Expected
from linscore.compression.rows import expected_of, unit_rows
from linscore.errors import LinscoreError
from linscore.spans import Unit

pytestmark = pytest.mark.usefixtures("one_thread")
MLP = Unit.parse("1.mlp")


def batches():
    ids = torch.randint(3, VOCABULARY, (2, 24, 16), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": one, "folds": torch.full((24,), fold)} for fold, one in enumerate(ids)]


def rows_of(said):
    return unit_rows(decoder_of("llama"), batches(), sub_blocks_of("llama"), 2, said.append)


def oracle():
    """½ tr(E[ggᵀ] E[δδᵀ]) of the MLP of block 1, which is dropped."""
    decoder, gradients, added = decoder_of("llama"), [], []

    def keep(_mlp, _args, output):
        output.retain_grad()
        added.append(output)

    hook = decoder.blocks[1].mlp.register_forward_hook(keep)
    for batch in batches():
        ids = batch["input_ids"]
        decoder.model(ids, labels=ids).loss.mul(ids[:, 1:].numel()).backward()
        gradients.append(added[-1].grad[:, :-1].flatten(0, 1).double())
    hook.remove()
    decoder.model.zero_grad()
    g, d = torch.cat(gradients), torch.cat([one.detach().flatten(0, 1).double() for one in added])
    return float((g.T @ g / len(g) * (d.T @ d / len(d))).sum() / 2)


def test_what_is_expected_of_a_unit_is_half_the_trace_of_both_second_moments():
    said = []
    found = rows_of(said)
    assert said == []
    assert found[MLP].expected(Form("drop")) == pytest.approx(oracle(), rel=1e-4)
    assert found[MLP].expected(Form("affine")) < found[MLP].expected(Form("drop"))
    expected = expected_of(found)
    assert expected(MLP, Form("drop")) == found[MLP].expected(Form("drop"))


def test_a_decoder_without_gradients_is_searched_by_what_its_forms_miss(monkeypatch):
    def refuse(*_of):
        raise LinscoreError("no gradient of its loss comes through: leave out `sensitivity`")

    monkeypatch.setattr(rows, "take_gradients", refuse)
    said = []
    found = rows_of(said)
    assert said == ["without gradients of the loss more is tried: no gradient of its loss comes through"]
    assert not found[MLP].has_gradients
    assert expected_of(found)(MLP, Form("drop")) == 0


def test_how_far_gradients_were_off_for_some_units_is_expected_of_the_others():
    thought = {"drop": 0.2, "affine": 0.02}
    expected = Expected(lambda _unit, form: thought[form.kind], in_nats=True)
    drop, affine = Form("drop"), Form("affine")
    assert expected(MLP, drop) == 0.2
    for block, added in enumerate((0.1, 0.3, 0.4)):
        expected.learn(Unit.parse(f"{block}.attention"), drop, added)
    assert expected(MLP, drop) == pytest.approx(0.3)
    assert expected(MLP, affine) == pytest.approx(0.03)
    expected.learn(MLP, affine, 0.05)
    assert expected(MLP, drop) == pytest.approx(0.5)
    assert expected.at_best(MLP, drop) == pytest.approx(0.35)
