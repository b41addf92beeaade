"""What surgery acts on: how it is written, ordered, and which of it meets."""

import pytest
import torch
from cut_models import logits, tokens
from linear_models import random_map
from stand_ins import hooked
from tiny_models import shared

from linscore import LinscoreError, drop
from linscore.spans import Span, Unit
from linscore.surgery.linearize import linearize, replace_units


@pytest.mark.parametrize(("text", "meant"), [("3", (3, 3, "")), ("2-4", (2, 4, "")), (" 3.mlp", (3, 3, "mlp"))])
def test_a_unit_reads_as_it_is_written(text, meant):
    unit = Unit.parse(text)
    assert (unit.span.first, unit.span.last, unit.part) == meant
    assert str(unit) == text.strip()
    assert Unit.parse(str(unit)) == unit


@pytest.mark.parametrize(
    "text", ["", "mlp", "3.", "3.norm", "3.mlp.mlp", "3-5.mlp", "4-3", "-1.mlp", "3.mlp,5", None, 3]
)
def test_what_is_no_unit_is_refused(text):
    with pytest.raises(LinscoreError):
        Unit.parse(text)


def test_units_are_ordered_as_they_run_and_tell_equal_ones():
    written = ["5", "0-2", "3.mlp", "3.attention", "4.attention"]
    assert list(map(str, sorted(map(Unit.parse, written)))) == ["0-2", "3.attention", "3.mlp", "4.attention", "5"]
    assert {Unit.of(3), Unit.of("3"), Unit.of(Span(3, 3)), Unit(Span(3, 3))} == {Unit.parse("3")}


def test_units_overlap_where_they_share_a_part_of_a_block():
    meets = {("3", "2-4"), ("3", "3.mlp"), ("2-4", "3.mlp"), ("3.mlp", "3.mlp")}
    for a, b in [*meets, ("3.mlp", "3.attention"), ("3.mlp", "4.mlp"), ("0-2", "3.mlp"), ("0-2", "3")]:
        for one, other in ((a, b), (b, a)):
            assert Unit.parse(one).overlaps(Unit.parse(other)) == ((a, b) in meets)


def test_blocks_are_dropped_beside_blocks_that_become_maps():
    model, fitted = shared("llama"), random_map()
    with hooked(model, 0, lambda x: x), hooked(model, 1, lambda x: fitted(x).float()):
        expected = logits(model, tokens())
    cut = replace_units(model, {"0": None, Unit.of(1): fitted})
    assert cut.config.num_hidden_layers == 2
    torch.testing.assert_close(logits(cut, tokens()), expected, rtol=1e-5, atol=1e-5)


def test_units_with_nothing_in_their_place_are_dropped_and_those_with_maps_linearized():
    model, fitted = shared("llama"), random_map()
    dropped, linear = replace_units(model, {"0-1": None}), replace_units(model, {"0-1": fitted})
    assert torch.equal(logits(dropped, tokens()), logits(drop(model, [0, 1]), tokens()))
    assert type(dropped) is type(model)
    assert torch.equal(logits(linear, tokens()), logits(linearize(model, {Span(0, 1): fitted}), tokens()))


@pytest.mark.parametrize("stand_ins", [{"1": None}, {"1": random_map()}, {"0-1": random_map()}], ids=str)
def test_a_cut_that_shares_its_tensors_with_the_model_is_that_of_copies(stand_ins):
    """So a model that is mapped into memory from its files is cut and saved without room for a second one."""
    model = shared("llama")
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    cut, copies = (replace_units(model, stand_ins, share=share) for share in (True, False))
    assert torch.equal(logits(cut, tokens()), logits(copies, tokens()))
    assert list(cut.state_dict()) == list(copies.state_dict())
    for name, tensor in cut.named_parameters():
        linear = name.startswith(f"model.layers.{0 if '0-1' in stand_ins else 1}.") and None not in stand_ins.values()
        assert (tensor.data_ptr() in own) == (not linear), name
    assert not {tensor.data_ptr() for tensor in copies.parameters()} & own
