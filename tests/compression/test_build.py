"""Decoders with every form in the place of some unit, as compress makes them; hooks on the original are the oracle."""

from contextlib import ExitStack

import pytest
import torch
from caches import logits_by_cache
from cut_models import greedy
from linear_models import logits, tokens
from part_hooks import PATHS, overwritten
from stand_ins import hooked
from tiny_models import WIDTH, shared

from linscore import Moments, find_decoder
from linscore.compression.build import built
from linscore.compression.choices import Form, forms_of
from linscore.compression.forms import fit_form
from linscore.compression.heal import Healed
from linscore.decoder.cached import kv_bytes_per_token
from linscore.spans import Unit
from linscore.statistics.ridge import Regression

# Each form once, in parts and whole blocks; block 1, which goes, moves what comes after it.
CHOICES = [
    {"0.attention": "mean", "0.mlp": "rank 2", "1": "drop", "2.attention": "drop", "2.mlp": "affine"},
    {"0.attention": "diagonal", "0.mlp": "mean", "1": "rank 2", "2.attention": "rank 4", "2.mlp": "drop"},
    {"0": "diagonal", "1.attention": "affine", "1.mlp": "diagonal", "2": "mean"},
]
IN_LLAMA = [("llama", choice) for choice in range(len(CHOICES))]
IN_OTHERS = [(family, n % len(CHOICES)) for n, family in enumerate(PATHS) if family != "llama"]  # one of them in each


@pytest.fixture(scope="module", name="maps")
def fixture():
    moments = Moments(WIDTH)
    x, noise = torch.randn(2, 200, WIDTH, generator=torch.Generator().manual_seed(0))
    moments.update(1 + x, delta=0.3 * x.roll(1, -1) + 0.2 * x + 0.1 * noise + 0.1)
    regression = Regression.of(moments)
    names = {form for choice in CHOICES for form in choice.values()} - {"drop"}
    return {name: fit_form(regression, Form.parse(name), None) for name in names}


def overwrite(model, family, maps):
    """Parts and whole blocks of the original give what their maps say, in float64."""
    stack = ExitStack()
    for unit, fitted in maps.items():
        if "." not in unit:
            stack.enter_context(hooked(model, int(unit), lambda x, one=fitted: x if one is None else one(x).float()))
    stack.enter_context(overwritten(model, family, {unit: one for unit, one in maps.items() if "." in unit}))
    return stack


@pytest.mark.parametrize(
    ("family", "number"), IN_LLAMA + [pytest.param(*one, marks=pytest.mark.slow) for one in IN_OTHERS]
)
def test_every_form_computes_what_hooks_make_of_the_original_with_a_cache_and_without(family, number, maps):
    model, chosen = shared(family), {unit: maps.get(form) for unit, form in CHOICES[number].items()}
    with overwrite(model, family, chosen):
        expected = logits(model, tokens())
    cut = built(model, Healed({Unit.parse(unit): one for unit, one in chosen.items()}))
    torch.testing.assert_close(logits(cut, tokens()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_by_cache(cut, tokens(), first=6), expected, rtol=1e-4, atol=1e-4)


def test_generated_text_is_the_same_with_a_cache_and_without(maps):
    chosen = {Unit.parse(unit): maps.get(form) for unit, form in CHOICES[0].items()}
    cut, prompt = built(shared("llama"), Healed(chosen)), tokens()[:, :6]
    assert greedy(cut, prompt, use_cache=True) == greedy(cut, prompt, use_cache=False)


def test_the_choices_have_every_form_in_parts_and_blocks():
    kinds = {form.kind for form in forms_of(WIDTH)}
    for part in (".attention", ".mlp"):
        assert {Form.parse(f).kind for choice in CHOICES for u, f in choice.items() if u.endswith(part)} == kinds
    assert {Form.parse(f).kind for choice in CHOICES for u, f in choice.items() if "." not in u} == kinds - {"affine"}


def test_only_attention_that_is_left_keeps_keys_and_values(maps):
    model = shared("llama")  # 2 heads of 8 features for keys and values, in float32
    for choice, left in zip(
        ({"0.mlp": "affine", "1.attention": "rank 2"}, {"0": "mean", "2": "drop"}), (2, 1), strict=True
    ):
        cut = built(model, Healed({Unit.parse(unit): maps.get(form) for unit, form in choice.items()}))
        assert kv_bytes_per_token(find_decoder(cut)) - left * 2 * 2 * 8 * 4 in (0, 8)  # 8: what counts tokens
