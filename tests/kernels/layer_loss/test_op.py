"""Distances between neighbouring states and their gradients, against torch's own formulas in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from linscore_kernels import LinscoreError, has_triton, layer_distances, layer_gradient
from torch.library import opcheck
from torch.nn.functional import cosine_similarity

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BACKENDS = ["eager", pytest.param("triton", marks=pytest.mark.skipif(not has_triton(), reason="no triton"))]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
UPSTREAM = (0.7, 0.02)


def stream(n: int, d: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """States of a decoder: short embeddings, a first block that outgrows them, small steps, and a last collapse."""
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(5)]
    states = [0.05 * noise[0], noise[1]]
    states += [states[-1] + 0.1 * noise[2]]
    states += [states[-1] + 0.01 * noise[3]]
    states += [0.05 * states[-1] + 0.02 * noise[4]]
    return [state.to(DEVICE, dtype) for state in states]


def long_stream(n: int, d: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """More states than one walk takes, of which some rows are near and others, thirty times as long, are not."""
    generator = torch.Generator().manual_seed(3)
    states = [torch.randn(n, d, generator=generator, dtype=torch.float64)]
    for _ in range(11):
        states.append(states[-1] + 0.1 * torch.randn(n, d, generator=generator, dtype=torch.float64))
    states[5][::4] *= 30
    return [state.to(DEVICE, dtype) for state in states]


def weights(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One row in five does not count."""
    weight = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    return (weight * (torch.arange(n) % 5 != 1)).to(DEVICE, dtype)


def formula(states, weight):
    """D and Q as anyone would write them."""
    pairs = list(pairwise(states))
    cosine = sum((weight * (1 - cosine_similarity(a, b, dim=-1))).sum() for a, b in pairs)
    return torch.stack((cosine, sum((weight * (a - b).square().sum(-1)).sum() for a, b in pairs)))


def with_gradients(function, states):
    """Sums and the gradients of their weighted sum."""
    leaves = [state.detach().clone().requires_grad_() for state in states]
    sums = function(leaves)
    loss = UPSTREAM[0] * sums[0] + UPSTREAM[1] * sums[1]
    return [sums.detach().double(), *(grad.double() for grad in torch.autograd.grad(loss, leaves))]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(7, 3), (80, 67), (30, 96), (3, 5000)])
def test_errors_are_at_most_twice_those_of_the_formula_plus_a_rounding(n, d, dtype, backend):
    assert_as_exact_as_the_formula(stream(n, d, dtype), weights(n), backend)


def assert_as_exact_as_the_formula(states, weight, backend):
    dtype = states[0].dtype
    exact = with_gradients(lambda s: formula(s, weight.double()), [state.double() for state in states])
    plain = with_gradients(lambda s: formula(s, weight.to(dtype)), states)
    got = with_gradients(lambda s: layer_distances(s, weight, backend=backend)[0], states)
    for index, (ours, theirs, truth) in enumerate(zip(got, plain, exact, strict=True)):
        rounding = torch.finfo(dtype if index else torch.float32).eps * truth.norm()
        assert (ours - truth).norm() <= 2 * (theirs - truth).norm() + rounding, index


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_chain_may_be_longer_than_a_walk(dtype, backend):
    assert_as_exact_as_the_formula(long_stream(11, 18, dtype), weights(11), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_gradients_of_a_long_chain_are_those_of_all(backend):
    states, weight = long_stream(11, 18), weights(11)
    every = with_gradients(lambda s: layer_distances(s, weight, backend=backend)[0], states)[1:]
    some = {2, 3, 7}
    leaves = [state.clone().requires_grad_(i in some) for i, state in enumerate(states)]
    sums, _ = layer_distances(leaves, weight, backend=backend)
    (UPSTREAM[0] * sums[0] + UPSTREAM[1] * sums[1]).backward()
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == (i in some)
        assert leaf.grad is None or torch.equal(leaf.grad.double(), every[i])


@pytest.mark.skipif(not has_triton(), reason="no triton")
def test_one_reduction_gives_the_sums_that_three_give(monkeypatch):
    """The interpreter takes three in its place, which it is fast at."""
    from linscore_kernels.layer_loss import kernel

    states, weight = stream(3, 5), weights(3)
    expected = layer_distances(states, weight, backend="triton")
    monkeypatch.setattr(kernel, "interpreted", lambda: False)
    torch.testing.assert_close(layer_distances(states, weight, backend="triton"), expected)


@pytest.mark.skipif(not has_triton(), reason="no triton")
@pytest.mark.parametrize(
    ("states", "forward", "backward"), [(2, 2, 2), (9, 9, 9), (10, 9 + 2, 10 + 2), (33, 33 + 3, 33 + 2 * 3)]
)
def test_how_often_states_are_read(states, forward, backward):
    """Once, but for the last of a walk, which begins the next, and in backward the neighbours on both sides."""
    from linscore_kernels.layer_loss.kernel import WALK, backward_walks, forward_walks

    every = range(states)
    assert sum(len(every[walk]) for walk in forward_walks(states)) == forward
    assert sum(len(every[read]) for read, _ in backward_walks(states)) == backward
    assert [i for _, written in backward_walks(states) for i in every[written]] == list(every)
    assert max(len(every[written]) for _, written in backward_walks(states)) <= WALK + 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_the_gradient_is_added_to_the_one_that_comes(dtype, backend):
    """In 16 bits to half a unit of rounding: float32 arithmetic, rounded once to the nearest."""
    states, weight = stream(40, 48, dtype), weights(40, torch.promote_types(dtype, torch.float32))
    exact = with_gradients(lambda s: formula(s, weight.double()), [state.double() for state in states])
    grad = torch.randn(40, 48, generator=torch.Generator().manual_seed(2)).to(DEVICE, dtype)
    before = grad.clone()
    _, figures = layer_distances(states, weight, backend=backend)
    neighbours = {"previous": (states[1], figures[1]), "following": (states[3], figures[2])}
    upstream = weight.new_tensor(UPSTREAM)
    got = layer_gradient(states[2], weight, upstream, grad=grad, **neighbours, backend=backend)
    assert got.dtype is dtype
    assert torch.equal(grad, before)
    rounding = torch.finfo(dtype).eps * (0.51 if dtype.itemsize == 2 else 2)
    atol = 0.2 * torch.finfo(weight.dtype).eps
    torch.testing.assert_close(got.double(), grad.double() + exact[3], rtol=rounding, atol=atol)


def test_gradients_of_float64_states_are_exact():
    states, weight = [state.requires_grad_() for state in stream(6, 5, torch.float64)], weights(6, torch.float64)
    assert torch.autograd.gradcheck(lambda *s: layer_distances(s, weight)[0], states)
    by_name = layer_distances([state.detach() for state in states], weight, backend="eager")[0]
    torch.testing.assert_close(by_name, formula(states, weight).detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_vectors_by_hand(backend):
    h0, h1 = torch.tensor([[1.0, 0.0]], device=DEVICE), torch.tensor([[0.0, 2.0]], device=DEVICE)
    weight = torch.ones(1, device=DEVICE)
    sums, *grads = with_gradients(lambda s: layer_distances(s, weight, backend=backend)[0], [h0, h1])
    assert sums.tolist() == [1, 5]
    (c, q), like = UPSTREAM, {"dtype": torch.float64, "device": DEVICE}
    torch.testing.assert_close(grads[0], c * torch.tensor([[0, -1.0]], **like) + q * torch.tensor([[2, -4.0]], **like))
    torch.testing.assert_close(grads[1], c * torch.tensor([[-0.5, 0]], **like) + q * torch.tensor([[-2, 4.0]], **like))


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_vectors_have_cosine_0_and_no_gradient_of_it(backend):
    zero, tiny, long = (torch.tensor([v], device=DEVICE) for v in ([0.0, 0.0], [1e-30, 0.0], [3.0, 4.0]))
    weight = torch.ones(1, device=DEVICE)
    for states in ([zero, long], [long, zero], [zero, zero], [tiny, long], [tiny, tiny]):
        sums, *grads = with_gradients(lambda s: layer_distances(s, weight, backend=backend)[0], states)
        apart = (states[1] - states[0]).double()
        assert sums.tolist() == [1, apart.square().sum().item()]
        torch.testing.assert_close(grads[1], 2 * UPSTREAM[1] * apart)
        torch.testing.assert_close(grads[0], -2 * UPSTREAM[1] * apart)


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_that_are_almost_equal_keep_their_digits(backend):
    """‖δ‖/‖x‖ = 1e-4: 1 − cos is 5e-9, below what 1 minus a float32 cosine can show."""
    x, step = (torch.randn(50, 96, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2))
    states = [x.float().to(DEVICE), (x + 1e-4 * step).float().to(DEVICE)]
    weight = torch.ones(50, device=DEVICE)
    got, _ = layer_distances(states, weight, backend=backend)
    expected = formula([state.double() for state in states], weight.double())
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_of_weight_0_may_hold_anything(backend):
    states, weight = stream(40, 24), weights(40)
    idle = weight == 0
    clean = with_gradients(lambda s: layer_distances(s, weight, backend=backend)[0], states)
    for state in states:
        state[idle] = float("nan")
    sums, *grads = with_gradients(lambda s: layer_distances(s, weight, backend=backend)[0], states)
    assert torch.equal(sums, clean[0])
    for got, expected in zip(grads, clean[1:], strict=True):
        assert torch.equal(got, expected)
        assert not got[idle].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend):
    states, weight = stream(40, 24), weights(40)
    strided = [
        torch.stack([states[0], states[0] + 1], 2)[:, :, 0],  # every other column
        states[1].T.contiguous().T,
        torch.cat([states[2], states[2]], 1)[:, :24],
        states[3].repeat_interleave(2, 0)[::2],
        states[4],
    ]
    expected_sums, figures = layer_distances(states, weight, backend=backend)
    sums, _ = layer_distances(strided, weight, backend=backend)
    torch.testing.assert_close(sums, expected_sums)
    upstream = torch.tensor(UPSTREAM, device=DEVICE)
    calls = [
        layer_gradient(s[1], weight, upstream, grad=s[0], previous=(s[2], figures[1]), backend=backend)
        for s in (states, strided)
    ]
    torch.testing.assert_close(calls[1], calls[0])
    assert calls[1].is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_may_differ_in_dtype(backend):
    states, weight = stream(40, 24), weights(40)
    states[1] = states[1].bfloat16()
    exact = with_gradients(lambda s: formula(s, weight.double()), [state.double() for state in states])
    got = with_gradients(lambda s: layer_distances(s, weight, backend=backend)[0], states)
    for ours, truth, dtype in zip(got[1:], exact[1:], (state.dtype for state in states), strict=True):
        assert (ours - truth).norm() <= torch.finfo(dtype).eps * 8 * truth.norm()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_schemas_fakes_and_autograd_are_what_torch_asks_for(backend):
    states, weight = stream(6, 5), weights(6)
    opcheck(torch.ops.linscore.layer_distances, ([s.clone().requires_grad_() for s in states], weight, backend))
    _, figures = layer_distances(states, weight, backend=backend)
    end = (weight, torch.tensor(UPSTREAM, device=DEVICE))
    around = (states[0], figures[0], states[2], figures[1])
    opcheck(torch.ops.linscore.layer_gradient, (states[1], *end, states[3], *around, backend))
    needed = [False, True, True, False, True]
    opcheck(torch.ops.linscore.layer_gradients, (states, *end, figures, needed, backend))
    opcheck(torch.ops.linscore.layer_gradient, (states[0].T.contiguous().T, *end, *[None] * 5, backend))


def test_states_that_need_no_gradient_get_none():
    states, weight = stream(6, 5), weights(6)
    states[1].requires_grad_()
    layer_distances(states, weight)[0].sum().backward()
    assert [state.grad is not None for state in states] == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("states", "weight", "message"),
    [
        ([torch.ones(4, 3)], torch.ones(4), "two at least"),
        ([torch.ones(3), torch.ones(3)], torch.ones(3), r"\[n, d\]"),
        ([torch.ones(4, 3), torch.ones(4, 2)], torch.ones(4), "differ in shape"),
        ([torch.ones(4, 3), torch.ones(4, 3).int()], torch.ones(4), "convert them"),
        ([torch.ones(4, 3)] * 2, torch.ones(3), r"give \[4\]"),
        ([torch.ones(4, 3)] * 2, torch.ones(4).double(), "float32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_advice(states, weight, message):
    with pytest.raises(LinscoreError, match=message):
        layer_distances(states, weight)


def test_a_neighbour_of_another_shape_is_refused():
    state = torch.ones(4, 3)
    with pytest.raises(LinscoreError, match="differ in shape"):
        layer_gradient(state, torch.ones(4), torch.ones(2), previous=(torch.ones(4, 2), torch.ones(3, 4)))
