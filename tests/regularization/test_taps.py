"""Taps in a small residual network, against plain autograd of the written-out loss."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from exact_memory import peak_bytes
from linscore_kernels import layer_distances
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.utils.checkpoint import checkpoint

from linscore.errors import LinscoreError
from linscore.regularization import taps
from linscore.regularization.taps import Chain, layer_loss, tap

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
WEIGHTS = {"cosine": 0.7, "mse": 0.03}
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.down(nn.functional.gelu(self.up(h)))


def decoder(blocks: int = 4, d: int = 6, dtype: torch.dtype = torch.float64) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(Block(d) for _ in range(blocks)).to(dtype)


def embeddings(d: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 5, d, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def forward(blocks, h, chain: Chain | None, call=lambda block, h: block(h)):
    """What leaves the last block, and all states."""
    states = []
    for block in (None, *blocks):
        h = h if block is None else call(block, h)
        h = h if chain is None else tap(h, chain)
        states.append(h)
    return h, states


def formula(states, mask=None, *, cosine=0.0, mse=0.0, tokens="mean", pairs="sum"):
    """As anyone would write it, over the tokens that count."""
    real = torch.ones(states[0].shape[:-1], dtype=torch.bool) if mask is None else mask.bool()
    terms = []
    for a, b in pairwise(states):
        a, b = a[real], b[real]
        each = cosine * (1 - cosine_similarity(a, b, dim=-1)) + mse * (a - b).square().sum(-1)
        terms.append(each.mean() if tokens == "mean" else each.sum())
    return torch.stack(terms).mean() if pairs == "mean" else torch.stack(terms).sum()


def gradients(loss, blocks, h, **options):
    return torch.autograd.grad(loss, [h, *blocks.parameters()], allow_unused=True, **options)


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
