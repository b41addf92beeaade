"""Blocks replaced by affine maps, against hooks that know nothing of linear blocks."""

from contextlib import ExitStack

import pytest
import torch
from caches import logits_by_cache
from linear_models import logits, random_map, tokens, zero_map
from stand_ins import STATE_SPACE, hooked
from tiny_models import DEPTH, FAMILIES, VOCABULARY, WIDTH, shared, tiny
from torch import nn

from linscore import LinscoreError, Moments, drop, find_decoder
from linscore.models.linear_block import LinearBlock
from linscore.spans import Span
from linscore.statistics.maps import fit_block_map
from linscore.surgery.linearize import linearize


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


@pytest.mark.slow
@pytest.mark.parametrize("index", range(DEPTH))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_that_adds_nothing_equals_bypassing_the_block(family, index):
    model = shared(family)
    with hooked(model, index, lambda x: x):
        expected = logits(model, tokens())
    torch.testing.assert_close(logits(linearize(model, {index: zero_map()}), tokens()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_can_be_replaced_and_the_model_stays_as_it_was(family):
    model = shared(family)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_what_does_not_fit_is_refused():
    model = tiny("llama")
    with pytest.raises(LinscoreError, match="no blocks \\[3\\]"):
        linearize(model, {3: zero_map()})
    with pytest.raises(LinscoreError, match="shape \\[16, 16\\]"):
        linearize(model, {0: zero_map(16)})
    find_decoder(model).blocks[0]._hf_hook = object()  # what accelerate leaves on a block that it has placed
    with pytest.raises(LinscoreError, match="without device_map"):
        linearize(model, {0: zero_map()})


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_span_whose_map_adds_nothing_equals_the_model_without_it(family):
    model = shared(family)
    linear = linearize(model, {Span(1, 2): zero_map()})
    assert [isinstance(block, LinearBlock) for block in find_decoder(linear).blocks] == [False, True]
    assert linear.config.num_hidden_layers == 2
    torch.testing.assert_close(logits(linear, tokens()), logits(drop(model, [1, 2]), tokens()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "qwen2", "gemma3", "mamba2"])
def test_maps_of_spans_take_what_enters_them(family):
    model = shared(family)
    maps = {Span(0, 1): random_map(0), 2: random_map(2)}
    with (
        hooked(model, 1, lambda x: x),
        hooked(model, 0, lambda x: maps[Span(0, 1)](x).float()),
        hooked(model, 2, lambda x: maps[2](x).float()),
    ):
        expected = logits(model, tokens())
    linear = linearize(model, maps)
    torch.testing.assert_close(logits(linear, tokens()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_by_cache(linear, tokens(), first=6), expected, rtol=1e-4, atol=1e-4)
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
    for maps in ({(1,): fitted}, {1.0: fitted}, {1: 5}, [fitted]):
        with pytest.raises(LinscoreError, match="give a list of blocks, each with its map"):
            linearize(model, maps)
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
