"""Taps in a small residual network, against plain autograd of the written-out loss."""

from __future__ import annotations

import math

import pytest
import torch
from linscore_kernels import layer_distances
from residual_network import MASK, WEIGHTS, decoder, embeddings, formula, forward, gradients

from linscore.regularization.taps import Chain, layer_loss, tap

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("factors", [(1, 1), (0, 1), (1, 0), (3e4, 0), (1024, 1024)], ids=str)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_gradients_are_those_of_the_loss_written_out(blocks, factors, mask):
    model, h = decoder(blocks), embeddings()
    chain = Chain(mask, **WEIGHTS)
    out, _ = forward(model, h, chain)
    plain_out, states = forward(model, h, None)
    loss, plain_loss = chain.loss(), formula(states, mask, **WEIGHTS)
    torch.testing.assert_close(loss, plain_loss)
    assert torch.equal(out, plain_out)
    got = gradients(factors[0] * loss + factors[1] * out.square().mean(), model, h)
    expected = gradients(factors[0] * plain_loss + factors[1] * plain_out.square().mean(), model, h)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("weights", [WEIGHTS, {"cosine": 0.7}, {"mse": 0.03}, {"cosine": -0.5, "mse": 1.0}], ids=str)
@pytest.mark.parametrize("tokens", ["mean", "sum"])
@pytest.mark.parametrize("pairs", ["mean", "sum"])
def test_reductions(weights, tokens, pairs):
    model, h = decoder(), embeddings()
    options = {**weights, "tokens": tokens, "pairs": pairs}
    chain = Chain(MASK.bool(), **options)
    forward(model, h, chain)
    _, states = forward(model, h, None)
    expected = formula(states, MASK, **options)
    for loss in (chain.loss(), layer_loss(states, MASK, **options)):
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            gradients(loss, model, h, retain_graph=True),
            gradients(expected, model, h, retain_graph=True),
            rtol=1e-9,
            atol=1e-14,
        )
    terms = chain.terms()
    torch.testing.assert_close(terms.cosine, formula(states, MASK, cosine=1, pairs="mean").detach())
    torch.testing.assert_close(terms.mse, formula(states, MASK, mse=1, pairs="mean").detach())
    assert not terms.cosine.requires_grad


def test_gradcheck_of_the_whole_network():
    model, h = decoder(2, 3), embeddings(3)

    def loss(h, *_parameters):
        chain = Chain(MASK, **WEIGHTS)
        return forward(model, h, chain)[0].square().mean() + chain.loss()

    assert torch.autograd.gradcheck(loss, (h, *model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_taps_on_given_states_give_what_layer_loss_gives(dtype):
    """Their arithmetic is the same; its errors are measured in test_layer_loss."""
    states = [torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(4)]
    ours, given = ([state.clone().requires_grad_() for state in states] for _ in range(2))
    chain = Chain(MASK, **WEIGHTS)
    for state in ours:
        assert torch.equal(tap(state, chain), state)
    loss, expected = chain.loss(), layer_loss(given, MASK, **WEIGHTS)
    torch.testing.assert_close(loss, expected)
    (512 * loss).backward()
    (512 * expected).backward()
    for got, other in zip(ours, given, strict=True):
        assert got.grad.dtype is dtype
        torch.testing.assert_close(got.grad, other.grad)


def test_backward_twice_gives_the_same_gradients_twice():
    model, h = decoder(), embeddings()
    chain = Chain(**WEIGHTS)
    out, _ = forward(model, h, chain)
    loss = chain.loss() + out.square().mean()
    first = gradients(loss, model, h, retain_graph=True)
    alone = gradients(out.square().mean(), model, h, retain_graph=True)
    second = gradients(loss, model, h)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    plain_out, _ = forward(model, h, None)
    torch.testing.assert_close(alone, gradients(plain_out.square().mean(), model, h))


def test_the_gradient_of_one_block_alone():
    model, h = decoder(), embeddings()
    chain = Chain(**WEIGHTS)
    forward(model, h, chain)
    _, states = forward(model, h, None)
    some = list(model[2].parameters())
    got = torch.autograd.grad(chain.loss(), some)
    torch.testing.assert_close(got, torch.autograd.grad(formula(states, **WEIGHTS), some))


@pytest.mark.parametrize("frozen", [0, 2, 3])
def test_frozen_blocks_and_detached_states(frozen):
    """No gradient enters the first blocks, or one between others: distances from their states count all the same."""
    model, h = decoder(), embeddings()

    def call(block, h):
        return block(h.detach() if block is model[frozen] else h)

    model[frozen].requires_grad_(False)
    chain = Chain(**WEIGHTS)
    out, _ = forward(model, h, chain, call)
    plain_out, states = forward(model, h, None, call)
    trained = [p for p in model.parameters() if p.requires_grad]
    got = torch.autograd.grad(chain.loss() + out.sum(), [h, *trained])
    torch.testing.assert_close(got, torch.autograd.grad(formula(states, **WEIGHTS) + plain_out.sum(), [h, *trained]))


def test_without_weights_nothing_happens():
    model, h = decoder(), embeddings()
    chain = Chain()
    assert tap(h, chain) is h
    out, _ = forward(model, h, chain)
    plain_out, _ = forward(model, h, None)
    assert chain.loss() == 0
    got = gradients(out.square().mean() + chain.loss(), model, h)
    assert all(torch.equal(a, b) for a, b in zip(got, gradients(plain_out.square().mean(), model, h), strict=True))


def test_without_gradients_there_are_values():
    model, h = decoder(), embeddings()
    chain = Chain(**WEIGHTS)
    with torch.no_grad():
        _, states = forward(model, h, chain)
        torch.testing.assert_close(chain.loss(), formula(states, **WEIGHTS))


def test_padding_may_be_nan():
    states = [torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    expected = formula(states, MASK, **WEIGHTS)
    for state in states:
        state[MASK == 0] = math.nan
    states = [state.requires_grad_() for state in states]
    loss = layer_loss(states, MASK, **WEIGHTS)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert all(state.grad.isfinite().all() and not state.grad[MASK == 0].any() for state in states)
    assert layer_loss(states, torch.zeros_like(MASK), **WEIGHTS) == 0


def test_states_of_two_dtypes():
    """Embeddings in float32 before blocks in bfloat16: the distances are those of the values as they are."""
    states = [torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    states[1] = states[1].bfloat16()
    chain = Chain(**WEIGHTS)
    leaves = [state.clone().requires_grad_() for state in states]
    for leaf in leaves:
        tap(leaf, chain)
    loss = chain.loss()
    torch.testing.assert_close(loss, formula([state.float() for state in states], **WEIGHTS))
    loss.backward()
    assert [leaf.grad.dtype for leaf in leaves] == [torch.float32, torch.bfloat16]


def test_the_ops_take_rows():
    states = [torch.randn(2, 5, 7), torch.randn(2, 5, 7)]
    sums, _ = layer_distances([state.flatten(0, 1) for state in states], torch.full((10,), 0.1))
    torch.testing.assert_close(sums @ torch.tensor([0.7, 0.03]), layer_loss(states, **WEIGHTS))
