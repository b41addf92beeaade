"""A cut model in use: it generates, is saved and reloaded, and trains as if it had never had the blocks."""

from functools import cache

import pytest
import torch
from caches import logits_by_cache
from cut_models import cut_of, greedy, logits, tokens
from tiny_models import FAMILIES, tiny
from transformers import AutoModelForCausalLM

from linscore import drop

every_family = pytest.mark.parametrize("family", FAMILIES)
pytestmark = pytest.mark.usefixtures("one_thread")
every_cut = pytest.mark.parametrize("gone", [[0], [1], [2], [0, 2], [1, 2]], ids=str)


@cache
def greedy_by_cache(family: str, *gone: int) -> list[list[int]]:
    return greedy(cut_of(family, *gone), tokens(), use_cache=True)


@pytest.mark.slow
@every_cut
@every_family
def test_the_cache_carries_what_the_whole_sequence_says(family, gone):
    cut = cut_of(family, *gone)
    torch.testing.assert_close(logits_by_cache(cut, tokens()), logits(cut, tokens()), rtol=1e-4, atol=1e-4)
    assert greedy_by_cache(family, *gone) == greedy(cut, tokens(), use_cache=False)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [[0], [1], [0, 2]], ids=str)
@every_family
def test_a_saved_cut_reloads_with_plain_transformers(family, gone, tmp_path):
    cut = cut_of(family, *gone)
    cut.save_pretrained(tmp_path)
    reloaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(reloaded) is type(cut)
    assert torch.equal(logits(reloaded, tokens()), logits(cut, tokens()))
    assert greedy(reloaded, tokens(), use_cache=True) == greedy_by_cache(family, *gone)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "gemma", "llama", "opt", "falcon"])
def test_tied_weights_stay_tied_and_others_apart(family, tie):
    cut = drop(tiny(family, tie_word_embeddings=tie), [1])
    assert (cut.get_output_embeddings().weight is cut.get_input_embeddings().weight) == tie


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["enabled-before", "enabled-after"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mamba"])
def test_gradient_checkpointing_changes_no_gradient(family, before):
    model = tiny(family)
    plain = drop(model, [0]).train()
    if before:
        model.gradient_checkpointing_enable()
    checkpointed = drop(model, [0]).train()
    if not before:
        checkpointed.gradient_checkpointing_enable()
    assert checkpointed.is_gradient_checkpointing
    for one in (plain, checkpointed):
        torch.manual_seed(0)  # dropout
        one(tokens(), labels=tokens(), use_cache=False).loss.backward()
    for (name, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")
