import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from linear_models import logits, random_map, tokens, zero_map
from tiny_models import DEPTH, FAMILIES, VOCABULARY, WIDTH, tiny
from torch import nn
from transformers import PreTrainedModel, StaticCache

from linscore import LinscoreError, Moments, drop, find_decoder
from linscore.models.cost import block_costs
from linscore.models.linear_block import LinearBlock
from linscore.spans import Span
from linscore.statistics.affine import AffineMap
from linscore.statistics.maps import fit_block_map
from linscore.surgery.linearize import linearize

STATE_SPACE = [family for family in FAMILIES if family.startswith("mamba")]
ATTENTION = [family for family in FAMILIES if family not in STATE_SPACE]


class Plain(nn.Module):
    """Residual blocks in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 8)
        self.blocks = nn.ModuleList([PlainBlock(8, 8) for _ in range(DEPTH)])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return x


class PlainBlock(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(super().forward(x))


def full_block(fitted: AffineMap, **kwargs) -> LinearBlock:
    return LinearBlock({"weight": fitted.b}, fitted.mean_x, fitted.mean_delta, **kwargs)


@contextmanager
def hooked(model: nn.Module, index: int, stand_in) -> Iterator[None]:
    """The block runs, and what it returns is replaced: an oracle that knows nothing of linear blocks."""

    def replace(_block, args, kwargs, output):
        y = stand_in(args[0] if args else kwargs["hidden_states"])
        return (y, *output[1:]) if isinstance(output, tuple) else y

    handle = find_decoder(model).blocks[index].register_forward_hook(replace, with_kwargs=True)
    yield
    handle.remove()


@torch.no_grad()
def stepwise_logits(model: PreTrainedModel, input_ids: torch.Tensor, prompt: int, **inputs) -> torch.Tensor:
    """Logits of a prompt, then of one token after the other, with nothing but the cache to tell what went before."""
    output = model(input_ids[:, :prompt], use_cache=True, **inputs)
    pieces, name = [output.logits], "cache_params" if "cache_params" in output else "past_key_values"
    for position in range(prompt, input_ids.shape[1]):
        step = {name: output[name]}
        output = model(input_ids[:, position : position + 1], use_cache=True, **step)
        pieces.append(output.logits)
    return torch.cat(pieces, 1)


@pytest.mark.parametrize("index", range(DEPTH))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_that_adds_nothing_equals_bypassing_the_block(family, index):
    model = tiny(family)
    with hooked(model, index, lambda x: x):
        expected = logits(model, tokens())
    torch.testing.assert_close(logits(linearize(model, {index: zero_map()}), tokens()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_can_be_replaced_and_the_model_stays_as_it_was(family):
    model = tiny(family)
    before = logits(model, tokens())
    maps = {index: random_map(index) for index in range(DEPTH)}
    linear = linearize(model, maps)
    with ExitStack() as hooks:
        for index, fitted in maps.items():
            hooks.enter_context(hooked(model, index, lambda x, fitted=fitted: fitted(x).float()))
        expected = logits(model, tokens())
    torch.testing.assert_close(logits(linear, tokens()), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model, tokens()), before)
    assert [isinstance(block, LinearBlock) for block in find_decoder(linear).blocks] == [True] * DEPTH


@pytest.mark.parametrize("family", ["gpt2", "bloom", "llama", "gemma3", "mamba"])
def test_an_affine_block_is_replaced_by_its_own_map_without_error(family):
    affine = linearize(tiny(family), {1: random_map()})
    seen = []
    handle = (
        find_decoder(affine)
        .blocks[1]
        .register_forward_hook(
            lambda _b, args, kwargs, out: seen.append(
                (args[0] if args else kwargs["hidden_states"], out[0] if isinstance(out, tuple) else out)
            ),
            with_kwargs=True,
        )
    )
    for seed in range(8):
        logits(affine, torch.randint(3, VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(seed)))
    handle.remove()
    moments = Moments(WIDTH, precision="exact", folds=2)
    for number, (x, y) in enumerate(seen):
        moments.update(x.reshape(-1, WIDTH), y.reshape(-1, WIDTH), fold=number % 2)
    fitted = fit_block_map(moments)
    assert fitted.error_heldout is not None
    assert fitted.error_heldout <= 1e-5
    again = linearize(affine, {1: fitted})
    torch.testing.assert_close(logits(again, tokens()), logits(affine, tokens()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("replaced", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_with_a_cache_equal_those_without(family, replaced):
    linear = linearize(tiny(family), {index: random_map(index) for index in replaced})
    expected, got = logits(linear, tokens()), stepwise_logits(linear, tokens(), prompt=6)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("replaced", [0, 1])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "qwen2"])
def test_logits_with_a_static_cache_equal_those_without(family, replaced):
    linear = linearize(tiny(family), {replaced: random_map()})
    cache = StaticCache(config=linear.config, max_cache_len=16)
    got = stepwise_logits(linear, tokens(), prompt=6, past_key_values=cache)
    torch.testing.assert_close(got, logits(linear, tokens()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_beam_text_are_the_same_with_and_without_a_cache(family):
    linear = linearize(tiny(family), {0: random_map()})
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "attention_mask": torch.ones(2, 6)}
    for beams in (1, 3):
        cached, uncached = (
            linear.generate(tokens()[:, :6], use_cache=use_cache, num_beams=beams, **options)
            for use_cache in (True, False)
        )
        assert cached.shape == (2, 14)
        assert torch.equal(cached, uncached)


@pytest.mark.parametrize("family", ATTENTION)
def test_left_padding_changes_no_logits(family):
    linear = linearize(tiny(family), {0: random_map()})
    short, long = tokens(1, 6), tokens(1, 9)
    padded = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.long), short], 1), long])
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    together = linear.generate(padded, attention_mask=mask, **options)
    alone = linear.generate(short, attention_mask=torch.ones_like(short), **options)
    assert torch.equal(together[0, 3:], alone[0])
    assert torch.equal(together[1], linear.generate(long, attention_mask=torch.ones_like(long), **options)[0])


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_linear_blocks_appear_in_the_hidden_states(family, asked_before):
    model, fitted = tiny(family), random_map()
    with torch.no_grad():
        before = model(tokens(), output_hidden_states=True).hidden_states if asked_before else None
        states = linearize(model, {1: fitted})(tokens(), output_hidden_states=True).hidden_states
    assert len(states) == (DEPTH + 1 if before is None else len(before))
    x, y = states[:2] if family in STATE_SPACE else states[1:3]  # Mamba records what leaves a block, not the embeddings
    torch.testing.assert_close(y, fitted(x).float(), rtol=1e-5, atol=1e-5)


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
    low, diagonal = fit_block_map(moments, rank=5), fit_block_map(moments, kind="diagonal")
    linear = linearize(model, {0: low, 2: diagonal})
    blocks = find_decoder(linear).blocks
    assert {name: tuple(p.shape) for name, p in blocks[0].named_parameters()} == {
        "down": (WIDTH, 5),
        "up": (5, WIDTH),
        "bias": (WIDTH,),
    }
    assert {name: tuple(p.shape) for name, p in blocks[2].named_parameters()} == {"scale": (WIDTH,), "bias": (WIDTH,)}
    for block, fitted in ((blocks[0], low), (blocks[2], diagonal)):
        assert sum(p.numel() for p in block.parameters()) == fitted.parameters
        torch.testing.assert_close(block(x), fitted(x).float(), rtol=1e-5, atol=1e-5)


def test_costs_are_those_of_the_blocks_themselves():
    model, fitted = tiny("llama"), random_map()
    before, after = block_costs(model), block_costs(linearize(model, {1: fitted}))
    attention, mlp = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 48
    assert before[1].parameters == attention + mlp + 2 * 32
    assert before[1].flops_per_token == 2 * (attention + mlp) + 4 * 8 * 32  # queries × keys and weights × values
    assert (after[1].parameters, after[1].flops_per_token) == (32 * 32 + 32, 2 * 32 * 32)
    assert after[0] == before[0]


def test_of_a_mixture_only_the_experts_that_run_count():
    cost = block_costs(tiny("mixtral"))[1]
    attention, expert, router = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 48, 32 * 4
    assert cost.parameters == attention + 4 * expert + router + 2 * 32
    assert cost.flops_per_token == 2 * (attention + 2 * expert + router) + 4 * 8 * 32


def test_what_does_not_fit_is_refused():
    model = tiny("llama")
    with pytest.raises(LinscoreError, match="no blocks \\[3\\]"):
        linearize(model, {3: zero_map()})
    with pytest.raises(LinscoreError, match="shape \\[16, 16\\]"):
        linearize(model, {0: zero_map(16)})
    find_decoder(model).blocks[0]._hf_hook = object()  # what accelerate leaves on a block that it has placed
    with pytest.raises(LinscoreError, match="without device_map"):
        linearize(model, {0: zero_map()})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_span_whose_map_adds_nothing_equals_the_model_without_it(family):
    model = tiny(family)
    linear = linearize(model, {Span(1, 2): zero_map()})
    assert [isinstance(block, LinearBlock) for block in find_decoder(linear).blocks] == [False, True]
    assert linear.config.num_hidden_layers == 2
    torch.testing.assert_close(logits(linear, tokens()), logits(drop(model, [1, 2]), tokens()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "qwen2", "gemma3", "mamba2"])
def test_maps_of_spans_take_what_enters_them(family):
    model = tiny(family)
    maps = {Span(0, 1): random_map(0), 2: random_map(2)}
    with (
        hooked(model, 1, lambda x: x),
        hooked(model, 0, lambda x: maps[Span(0, 1)](x).float()),
        hooked(model, 2, lambda x: maps[2](x).float()),
    ):
        expected = logits(model, tokens())
    linear = linearize(model, maps)
    torch.testing.assert_close(logits(linear, tokens()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stepwise_logits(linear, tokens(), prompt=6), expected, rtol=1e-4, atol=1e-4)
    assert len(find_decoder(linear).blocks) == 2
    assert len(find_decoder(model).blocks) == DEPTH


def test_a_span_of_one_block_is_that_block():
    model = tiny("llama")
    one = linearize(model, {Span(1, 1): random_map()})
    assert torch.equal(logits(one, tokens()), logits(linearize(model, {1: random_map()}), tokens()))


def test_spans_that_do_not_fit_are_refused():
    model, fitted = tiny("llama"), zero_map()
    for maps in (
        {Span(0, 1): fitted, 1: fitted},
        {Span(0, 1): fitted, Span(1, 2): fitted},
        {Span(1, 1): fitted, 1: fitted},
    ):
        with pytest.raises(LinscoreError, match="overlap"):
            linearize(model, maps)
    with pytest.raises(LinscoreError, match=r"no blocks \[3\]"):
        linearize(model, {Span(1, 3): fitted})
    by_index = tiny("qwen3_moe", mlp_only_layers=[1])
    with pytest.raises(LinscoreError, match="mlp_only_layers"):
        linearize(by_index, {Span(0, 1): fitted})
    assert len(find_decoder(linearize(by_index, {1: fitted})).blocks) == DEPTH


def test_a_model_that_is_none_of_transformers_is_linearized_too():
    model = Plain()
    ids = tokens() % 8
    with hooked(model, 1, lambda x: random_map(width=8)(x).float()), torch.no_grad():
        expected = model(ids)
    with torch.no_grad():
        torch.testing.assert_close(linearize(model, {1: random_map(width=8)})(ids), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(LinscoreError, match="no transformers model"):
        linearize(model, {Span(0, 1): zero_map(8)})
