"""Attention and MLP dropped or replaced by maps; the oracle overwrites what they add by hooks on the original."""

import pytest
import torch
from caches import logits_by_cache
from linear_models import logits, random_map, tokens
from part_hooks import PATHS, overwritten
from stand_ins import hooked
from tiny_models import FAMILIES, shared, tiny
from transformers import StaticCache

from linscore import LinscoreError, drop, find_decoder
from linscore.decoder.cached import kv_bytes_per_token
from linscore.surgery.linearize import linearize, replace_units

CASES = {
    "attention": {"1.attention": None},
    "first": {"0.attention": None},
    "mlp": {"1.mlp": None},
    "both": {"1.attention": None, "1.mlp": None},
    "maps": {
        "0.attention": random_map(0),
        "1.mlp": random_map(1),
        "2.attention": random_map(2),
        "2.mlp": random_map(3),
    },
    "all attention": {"0.attention": None, "1.attention": random_map(1), "2.attention": None},
}
QUICK = [("llama", "maps"), ("gptj", "maps"), ("bloom", "maps"), ("gpt2", "all attention")]
SOME = ["gptj", "bloom", "gemma2", "opt"]  # parallel, residuals within, norms behind, an MLP of several children
# Maps in the other families: tests/compression/test_build.py.
MORE = [one for one in ((family, case) for family in SOME for case in CASES) if one not in QUICK]


@pytest.mark.parametrize(("family", "case"), QUICK + [pytest.param(*one, marks=pytest.mark.slow) for one in MORE])
def test_a_block_without_a_part_computes_what_hooks_make_of_it_with_a_cache_and_without(family, case):
    model, maps = shared(family), CASES[case]
    with overwritten(model, family, maps):
        expected = logits(model, tokens())
    cut = replace_units(model, maps)
    torch.testing.assert_close(logits(cut, tokens()), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_by_cache(cut, tokens(), first=6), expected, rtol=1e-4, atol=1e-4)


def test_every_family_with_attention_and_mlp_is_tried():
    assert set(FAMILIES) - set(PATHS) == {"opt_350m", "mamba", "mamba2"}  # post-norm, and no MLP
    for family in ("opt_350m", "mamba"):
        with pytest.raises(LinscoreError, match="take whole blocks"):
            drop(shared(family), ["1.mlp"])


@pytest.mark.parametrize("family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in SOME)])
def test_generated_text_is_the_same_with_and_without_a_cache_and_with_padding(family):
    cut = drop(shared(family), ["0.attention", "1.mlp"])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    short, long = tokens(1, 6), tokens(1, 9)
    alone = cut.generate(short, attention_mask=torch.ones_like(short), **options)
    uncached = cut.generate(short, attention_mask=torch.ones_like(short), use_cache=False, **options)
    assert torch.equal(alone, uncached)
    padded = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.long), short], 1), long])
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    together = cut.generate(padded, attention_mask=mask, **options)
    assert torch.equal(together[0, 3:], alone[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt_oss"])
def test_logits_with_a_static_cache_equal_those_without(family):
    cut = drop(shared(family), ["0.attention", "1.mlp"])
    got = logits_by_cache(cut, tokens(), first=6, cache=StaticCache(config=cut.config, max_cache_len=16))
    torch.testing.assert_close(got, logits(cut, tokens()), rtol=1e-4, atol=1e-4)


def test_an_attention_that_is_gone_has_no_slot_and_no_bytes():
    model = shared("llama")  # 2 heads of 8 features for keys and values, in float32
    cut = drop(model, ["0.attention", "2.mlp"])
    assert kv_bytes_per_token(find_decoder(model)) == 3 * 2 * 2 * 8 * 4
    assert kv_bytes_per_token(find_decoder(cut)) == 2 * 2 * 2 * 8 * 4
    with torch.no_grad():
        cache = cut(tokens(), use_cache=True).past_key_values
    assert [layer.get_seq_length() for layer in cache.layers] == [10, 10, 0]
    first = drop(model, ["0.attention", "1.attention", "2.attention"])
    assert kv_bytes_per_token(find_decoder(first)) == 8  # one number of a key and one of a value count tokens


@pytest.mark.slow
def test_slots_are_of_the_kind_of_the_attention_that_uses_them():
    mixed = ["sliding_attention", "full_attention", "sliding_attention"]
    model = tiny("gemma3", layer_types=mixed)
    cut = drop(model, ["0.attention"])
    assert [block.self_attn.layer_idx for block in find_decoder(cut).blocks[1:]] == [1, 0]
    for gone in (["0.attention"], ["1.attention"], ["0.attention", "2.attention"]):
        with overwritten(model, "gemma3", dict.fromkeys(gone)):
            expected = logits(model, tokens())
        got = logits_by_cache(drop(model, gone), tokens(), first=6)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_what_only_served_the_part_is_gone_and_what_others_need_stays():
    for family, gone in (("llama", ("self_attn", "input_layernorm")), ("gptj", ("attn",))):
        blocks = [find_decoder(model).blocks[1] for model in (shared(family), drop(shared(family), ["1.attention"]))]
        sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
        assert sizes[0] - sizes[1] == sum(p.numel() for name in gone for p in getattr(blocks[0], name).parameters())


@pytest.mark.slow
def test_parts_go_beside_whole_blocks_at_once_and_one_after_the_other():
    model, first, part = shared("llama"), random_map(0), random_map(1)
    with (
        hooked(model, 0, lambda x: first(x).float()),
        hooked(model, 1, lambda x: x),
        overwritten(model, "llama", {"2.mlp": part, "2.attention": None}),
    ):
        expected = logits(model, tokens())
    at_once = replace_units(model, {0: first, 1: None, "2.mlp": part, "2.attention": None})
    in_turn = replace_units(drop(linearize(model, {0: first, "1.attention": random_map(2)}), [1]), {"1.mlp": part})
    for cut in (at_once, drop(in_turn, ["1.attention"])):
        assert len(find_decoder(cut).blocks) == 2
        torch.testing.assert_close(logits(cut, tokens()), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits_by_cache(cut, tokens(), first=6), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_slots_stay_right_when_blocks_become_maps_later():
    cut = drop(shared("llama"), ["0.attention"])
    for index in range(3):
        linear = linearize(cut, {index: random_map(index)})
        expected = logits(linear, tokens())
        torch.testing.assert_close(logits_by_cache(linear, tokens(), first=6), expected, rtol=1e-4, atol=1e-4)


def test_what_stands_in_for_a_part_may_be_changed():
    model = shared("gptj")
    again = replace_units(linearize(model, {"1.mlp": random_map(1)}), {"1.mlp": random_map(2)})
    once = linearize(model, {"1.mlp": random_map(2)})
    assert torch.equal(logits(again, tokens()), logits(once, tokens()))


def test_units_that_meet_and_blocks_that_are_maps_are_refused():
    model = shared("llama")
    with pytest.raises(LinscoreError, match=r"blocks 1, 1\.mlp overlap"):
        drop(model, [1, "1.mlp"])
    with pytest.raises(LinscoreError, match="no blocks \\[3\\]"):
        drop(model, ["3.mlp"])
    with pytest.raises(LinscoreError, match=r"map for block 1\.mlp has shape \[16, 16\]"):
        linearize(model, {"1.mlp": random_map(0, 16)})


def test_the_given_model_stays_as_it_was():
    model = tiny("gemma2")
    before = logits(model, tokens())
    replace_units(model, CASES["maps"])
    assert torch.equal(logits(model, tokens()), before)
    assert not hasattr(model.config, "linear_blocks")


def test_a_state_that_was_handed_over_is_not_kept():
    cut = linearize(shared("gptj"), {"1.mlp": random_map(1)})
    logits(cut, tokens())
    assert find_decoder(cut).blocks[1].mlp.state is None
