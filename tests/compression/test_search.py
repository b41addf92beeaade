"""The search; the oracle tries every choice of a decoder of three blocks."""

import itertools
import math
import random

import pytest

from linscore.compression.choices import Form, forms_of, with_form
from linscore.compression.expected import Expected
from linscore.compression.search import Search
from linscore.errors import LinscoreError
from linscore.spans import Unit

DEPTH = 3
UNITS = [Unit.parse(f"{block}{part}") for block in range(DEPTH) for part in ("", ".attention", ".mlp")]
FORMS = [Form("drop"), Form("rank", 2), Form("affine")]
HOLDS = {FORMS[0]: 0, FORMS[1]: 13, FORMS[2]: 31}
SIZES = {"": 300, "attention": 100, "mlp": 200}


class Additive:
    """A decoder whose units add to the loss by themselves, drawn at random; the best choice is found by trying all."""

    def __init__(self, seed):
        draw = random.Random(seed)
        self.added, self.measured, self.missed = {}, [], {}
        for unit in sorted(UNITS, key=lambda unit: not unit.part):  # a block dropped is both of its parts dropped
            parts = [self.added.get((Unit(unit.span, part), FORMS[0]), 0.0) for part in ("attention", "mlp")]
            scale = 10 ** draw.uniform(-3, 0) if unit.part else sum(parts)
            for form, share in zip(FORMS, (1, draw.uniform(0.4, 0.9), draw.uniform(0.1, 0.4)), strict=True):
                self.added[unit, form], self.missed[unit, form] = scale * share, share * draw.uniform(0.9, 1.1)

    def loss(self, choice):
        return 1 + sum(self.added[one] for one in choice.items())

    def measure(self, _reached, choice):
        self.measured.append(choice)
        return self.loss(choice)

    def saves(self, unit, form):
        return SIZES[unit.part] - HOLDS[form]

    def search(self):
        missed = Expected(lambda unit, form: self.missed[unit, form])
        return Search(dict.fromkeys(UNITS, FORMS), self.saves, self.measure, missed)

    def all_choices(self):
        kept = [None, *FORMS]
        parts = [("attention", "mlp", *pair) for pair in itertools.product(kept, kept)]
        of_block = [*parts, *(("", None, form, None) for form in FORMS)]
        for blocks in itertools.product(of_block, repeat=DEPTH):
            choice = {}
            for block, (one, other, form, more) in enumerate(blocks):
                for part, given in ((one, form), (other, more)):
                    if part is not None and given is not None:
                        choice[Unit.parse(f"{block}.{part}" if part else str(block))] = given
            yield choice


@pytest.mark.slow
@pytest.mark.parametrize("enough", [180, 300, 480])
def test_what_is_found_is_what_trying_all_choices_finds(enough):
    same = []
    for seed in range(2):
        decoder = Additive(seed)
        search = decoder.search()
        for _ in search.run(enough, math.inf):
            pass
        saved = [
            (decoder.loss(choice), choice)
            for choice in decoder.all_choices()
            if sum(decoder.saves(*one) for one in choice.items()) >= enough
        ]
        best = min(loss for loss, _ in saved)
        assert search.last.saved >= enough
        same.append(search.last.loss - 1 <= (best - 1) * 1.001)
        assert len(decoder.measured) < 120
    assert all(same), same


def test_a_loss_that_is_allowed_is_kept_and_used():
    decoder = Additive(3)
    search = decoder.search()
    losses = [step.loss for step in search.advance(most_loss=1.2)]
    assert losses
    assert max(losses) <= 1.2
    more = [
        decoder.loss(with_form(search.last.choice, unit, form))
        for unit in UNITS
        for form in FORMS
        if not (unit.part and Unit(unit.span) in search.last.choice)
        and search.saved(with_form(search.last.choice, unit, form)) > search.last.saved
    ]
    assert min(more, default=2) > 1.2


def test_whole_blocks_alone_go_in_the_order_of_what_they_cost_and_one_stays():
    decoder = Additive(5)
    blocks = [unit for unit in UNITS if not unit.part]
    missed = Expected(lambda unit, form: decoder.missed[unit, form])
    search = Search(dict.fromkeys(blocks, FORMS[:1]), decoder.saves, decoder.measure, missed)
    assert search.most == 2 * SIZES[""]
    *_, last = search.advance(search.most)
    cheapest = sorted(blocks, key=lambda unit: decoder.added[unit, FORMS[0]])[:2]
    assert last.choice == dict.fromkeys(cheapest, FORMS[0])


def test_both_parts_of_a_block_dropped_are_the_block_dropped():
    half = with_form({}, Unit.parse("1.mlp"), Form("drop"))
    assert half == {Unit.parse("1.mlp"): Form("drop")}
    assert with_form(half, Unit.parse("1.attention"), Form("drop")) == {Unit.parse("1"): Form("drop")}
    both = {Unit.parse("1"): Form("affine")}
    assert with_form({**half, Unit.parse("1.attention"): Form("mean")}, Unit.parse("1"), Form("affine")) == both


def test_forms_are_written_and_read():
    assert [str(form) for form in forms_of(32)] == ["drop", "mean", "diagonal", "rank 2", "rank 4", "rank 8", "affine"]
    assert [Form.parse(str(form)) for form in forms_of(32)] == forms_of(32)
    for wrong in ("rank", "mean 3", "fused", ""):
        with pytest.raises(LinscoreError, match="no form"):
            Form.parse(wrong)


def test_what_is_not_measured_is_thought_to_cost_in_proportion_to_what_it_misses():
    expected = Expected(lambda _unit, form: {"drop": 1.2, "mean": 1.0, "affine": 0.3}[form.kind])
    unit = Unit.parse("1.mlp")
    assert expected(unit, Form("mean")) == 0
    expected.learn(unit, Form("affine"), 0.06)
    assert expected(unit, Form("affine")) == 0.06
    assert expected(unit, Form("mean")) == pytest.approx(0.2)
    expected.learn(unit, Form("mean"), 0.1)
    assert expected(unit, Form("drop")) == pytest.approx(0.12)
