"""A linear block: its dtype, its form, its gradients."""

import copy

import pytest
import torch
from linear_models import logits, random_map, tokens
from stand_ins import full_block
from tiny_models import FAMILIES, WIDTH, tiny
from torch import nn

from linscore import Moments, find_decoder
from linscore.statistics.maps import fit_block_map
from linscore.surgery.linearize import linearize


@pytest.mark.slow
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "bloom", "falcon", "opt", "gpt_neox", "llama", "gemma3", "mamba"])
def test_gradient_checkpointing_gives_the_same_gradients(family, reentrant):
    plain = linearize(tiny(family), {0: random_map(), 1: random_map(1)}).train()
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        checkpointed.enable_input_require_grads()
    for model in (plain, checkpointed):
        torch.manual_seed(0)
        model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None, name
        else:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)
    assert find_decoder(plain).blocks[1].weight.grad.abs().max() > 0


def test_checkpointing_that_was_on_before_stays_on():
    model = tiny("llama")
    model.gradient_checkpointing_enable()
    block = find_decoder(linearize(model, {1: random_map()}).train()).blocks[1]
    calls = []
    block._gradient_checkpointing_func = lambda forward, *args: calls.append(1) or forward(*args)
    block(torch.randn(1, 2, WIDTH))
    assert calls == [1]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_cast_to_16_bits_runs_and_generates(family):
    model = tiny(family).to(torch.bfloat16)
    cast_after = linearize(tiny(family), {0: random_map(), 2: random_map(2)}).to(torch.bfloat16)
    cast_before = linearize(model, {0: random_map(), 2: random_map(2)})
    got = logits(cast_after, tokens())
    assert got.dtype is logits(model, tokens()).dtype
    assert torch.equal(got, logits(cast_before, tokens()))
    exact = logits(cast_after.float(), tokens())
    assert (got.float() - exact).norm() < 0.1 * exact.norm()
    cast_before.generate(tokens(), max_new_tokens=3, do_sample=False, attention_mask=torch.ones(2, 10))


@pytest.mark.parametrize("cast_before", [False, True])
def test_16_bits_do_not_lose_the_mean_of_outlier_features(cast_before):
    fitted = random_map(mean=100.0, size=1.0)
    block = full_block(fitted, dtype=torch.bfloat16) if cast_before else full_block(fitted).to(torch.bfloat16)
    noise = torch.randn(4096, WIDTH, generator=torch.Generator().manual_seed(3))
    x = (fitted.mean_x + noise.double()).to(torch.bfloat16)
    expected = fitted(x) - x.double()
    error = block.delta(x).double() - expected
    # Products of numbers of 8 bits: relative errors of 2^-8, and no offset.
    assert error.norm() <= 2**-8 * (expected - fitted.mean_delta).norm()
    assert error.mean(0).abs().max() <= 2**-8 * noise.std()
    assert block.bias.dtype is block.center.dtype is torch.float32


def test_a_cast_keeps_gradient_and_parameter_in_one_dtype_and_a_move_goes_all_the_way():
    block = full_block(random_map())
    block(torch.randn(3, WIDTH)).sum().backward()
    block.to(torch.bfloat16)
    assert all(p.grad.dtype is p.dtype for p in block.parameters())
    assert [t.dtype for t in (block.weight, block.bias)] == [torch.bfloat16, torch.float32]
    assert all(t.device.type == "meta" for t in block.to("meta").state_dict().values())
    assert all(t.dtype is torch.float64 for t in full_block(random_map()).double().state_dict().values())


def test_low_rank_and_diagonal_maps_keep_their_form():
    model = tiny("llama")
    moments = Moments(WIDTH, precision="exact")
    x = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(0))
    moments.update(x, random_map()(x).float())
    low, diagonal, mean = (
        fit_block_map(moments, **form) for form in ({"rank": 5}, {"kind": "diagonal"}, {"kind": "mean"})
    )
    linear = linearize(model, {0: low, 1: mean, 2: diagonal})
    blocks = find_decoder(linear).blocks
    assert {name: tuple(p.shape) for name, p in blocks[0].named_parameters()} == {
        "down": (WIDTH, 5),
        "up": (5, WIDTH),
        "bias": (WIDTH,),
    }
    assert {name: tuple(p.shape) for name, p in blocks[2].named_parameters()} == {"scale": (WIDTH,), "bias": (WIDTH,)}
    assert {name: tuple(p.shape) for name, p in blocks[1].named_parameters()} == {"bias": (WIDTH,)}
    for block, fitted in zip(blocks, (low, mean, diagonal), strict=False):
        assert sum(p.numel() for p in block.parameters()) == fitted.parameters
        torch.testing.assert_close(block(x), fitted(x).float(), rtol=1e-5, atol=1e-5)
