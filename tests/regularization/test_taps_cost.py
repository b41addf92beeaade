"""What taps cost and where they may stand: what is kept, counted, compiled, checkpointed."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from exact_memory import peak_bytes
from residual_network import MASK, WEIGHTS, decoder, embeddings, formula, forward, gradients
from torch import nn
from torch.utils.checkpoint import checkpoint

from linscore.errors import LinscoreError
from linscore.regularization import taps
from linscore.regularization.taps import Chain, layer_loss, tap

pytestmark = pytest.mark.usefixtures("one_thread")


CPU = torch.device("cpu")


@pytest.mark.parametrize("reentrant", [False, True])
def test_taps_between_checkpointed_blocks(reentrant):
    model, h = decoder(), embeddings()
    chain = Chain(**WEIGHTS)
    out, _ = forward(model, h, chain, partial(checkpoint, use_reentrant=reentrant))
    _, states = forward(model, h, None)
    (chain.loss() + out.square().mean()).backward()
    expected = gradients(formula(states, **WEIGHTS) + states[-1].square().mean(), model, h)
    torch.testing.assert_close([h.grad, *(p.grad for p in model.parameters())], list(expected))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_tap_inside_a_checkpointed_function_is_refused(reentrant):
    model, h = decoder(), embeddings()
    chain = Chain(**WEIGHTS)
    h = tap(h, chain)
    for block in model:
        h = checkpoint(lambda h, block=block: tap(block(h), chain), h, use_reentrant=reentrant)
    with pytest.raises(LinscoreError, match="inside a checkpointed function"):
        h.sum().backward()


def test_each_state_is_counted_once(monkeypatch):
    """One distance for each pair, one gradient for each state."""
    calls = []
    for name in ("layer_distances", "layer_gradient"):
        original = getattr(taps, name)
        monkeypatch.setattr(taps, name, lambda *a, _f=original, _n=name, **k: (calls.append(_n), _f(*a, **k))[1])
    model, h = decoder(4), embeddings()
    chain = Chain(**WEIGHTS)
    out, _ = forward(model, h, chain, partial(checkpoint, use_reentrant=False))
    (chain.loss() + out.sum()).backward()
    assert calls == ["layer_distances"] * 4 + ["layer_gradient"] * 5


def test_what_is_kept_for_backward_is_three_floats_a_token():
    """Every state is in the graph already; storages are counted once."""
    model, h = decoder(4, 256, torch.float32), embeddings(256, torch.float32)

    def kept(chain):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out, _ = forward(model, h, chain)
            out.square().mean()
        return sum(storage.nbytes() for storage in storages.values())

    tokens, pairs = h[..., 0].numel(), 4
    assert kept(Chain(**WEIGHTS)) - kept(None) == (3 * pairs + 1) * tokens * 4  # and one weight for each token


def test_a_step_with_taps_peaks_no_higher():
    """Blocks, and a head as decoders have it, whose logits are where a plain step peaks."""
    d, count = 128, 6
    model, h, head = decoder(count, d, torch.float32), torch.randn(1, 512, d), nn.Linear(d, 1024)
    targets = torch.zeros(512, dtype=torch.long)

    def step(chain):
        out, _ = forward(model, h.clone().requires_grad_(), chain)
        loss = nn.functional.cross_entropy(head(out)[0], targets)
        (loss if chain is None else loss + chain.loss()).backward()

    step(None)  # the gradients of the parameters stay
    plain, tapped = peak_bytes(lambda: step(None), CPU), peak_bytes(lambda: step(Chain(**WEIGHTS)), CPU)
    assert plain > (count + 1) * h.nbytes
    assert tapped - plain <= 0.03 * (count + 1) * h.nbytes


@pytest.mark.slow
def test_compiling_a_caller_leaves_its_graph_whole():
    states = [state.detach().float().requires_grad_() for state in forward(decoder(2), embeddings(), None)[1]]

    def caller(*states):
        return 2 * layer_loss([state * 1.5 for state in states], MASK, **WEIGHTS, pairs="mean")

    got, expected = torch.compile(caller, fullgraph=True, backend="aot_eager")(*states), caller(*states)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, states), torch.autograd.grad(expected, states))


def test_a_state_changed_in_place_is_noticed():
    chain, h = Chain(**WEIGHTS), embeddings() * 1
    tapped = tap(h, chain)
    with pytest.raises(RuntimeError, match="inplace"):
        tapped += 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _h: Chain(cosine=math.nan), "finite"),
        (lambda _h: Chain(tokens="max"), "mean or sum"),
        (lambda _h: Chain(cosine=1).loss(), "0 states were tapped"),
        (lambda h: layer_loss([h], cosine=1), "1 states were tapped"),
        (lambda _h: Chain().terms(), "no state is recorded"),
        (lambda h: layer_loss([h, h], MASK[:, 1:], cosine=1), "one entry per token"),
        (lambda h: layer_loss([h, h[..., :3]], cosine=1), "residual stream"),
        (lambda h: tap_after_loss(h), "new Chain"),
    ],
)
def test_what_cannot_be_is_refused_with_advice(call, message):
    with pytest.raises(LinscoreError, match=message):
        call(embeddings())


def tap_after_loss(h: torch.Tensor) -> None:
    chain = Chain(cosine=1)
    tap(tap(h, chain) + 1, chain)
    chain.loss()
    tap(h, chain)
