"""A linearized model generates with a cache what it generates without."""

import pytest
import torch
from caches import NAMES, logits_by_cache
from linear_models import linear_of, logits, random_map, tokens
from stand_ins import ATTENTION, full_block
from tiny_models import FAMILIES, WIDTH, tiny
from transformers import DynamicCache, StaticCache

from linscore.surgery.linearize import linearize


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_with_a_cache_equal_those_without(family, replaced):
    linear = linear_of(family, *replaced)
    expected, got = logits(linear, tokens()), logits_by_cache(linear, tokens(), first=6)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [0, 1])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "qwen2"])
def test_logits_with_a_static_cache_equal_those_without(family, replaced):
    linear = linearize(tiny(family), {replaced: random_map()})
    cache = StaticCache(config=linear.config, max_cache_len=16)
    got = logits_by_cache(linear, tokens(), first=6, cache=cache)
    torch.testing.assert_close(got, logits(linear, tokens()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [None, *NAMES])
def test_a_linear_block_counts_tokens_whatever_its_model_calls_the_cache(name):
    block, cache = full_block(random_map(), slot=0), DynamicCache()
    for length in (4, 1):
        x = torch.randn(2, length, WIDTH)
        block(x, cache) if name is None else block(x, **{name: cache})
    assert cache.get_seq_length() == 5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_beam_text_are_the_same_with_and_without_a_cache(family):
    linear = linear_of(family, 0)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "attention_mask": torch.ones(2, 6)}
    for beams in (1, 3):
        cached, uncached = (
            linear.generate(tokens()[:, :6], use_cache=use_cache, num_beams=beams, **options)
            for use_cache in (True, False)
        )
        assert cached.shape == (2, 14)
        assert torch.equal(cached, uncached)


@pytest.mark.slow
@pytest.mark.parametrize("family", ATTENTION)
def test_left_padding_changes_no_logits(family):
    linear = linear_of(family, 0)
    short, long = tokens(1, 6), tokens(1, 9)
    padded = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.long), short], 1), long])
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    together = linear.generate(padded, attention_mask=mask, **options)
    alone = linear.generate(short, attention_mask=torch.ones_like(short), **options)
    assert torch.equal(together[0, 3:], alone[0])
    assert torch.equal(together[1], linear.generate(long, attention_mask=torch.ones_like(long), **options)[0])
