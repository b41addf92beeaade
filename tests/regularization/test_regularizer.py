"""The regularizer against plain autograd on hidden states, and that nothing else about a model or a run changes."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from formulas import BLOCKS, RIDGE, formula, ridge_score, states
from linscore_kernels import has_triton
from sklearn.linear_model import Ridge
from tiny_models import VOCABULARY, enable_checkpointing, tiny
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from linscore.errors import LinscoreError
from linscore.regularization.batch_linearity import RunningMoments, batch_linearity
from linscore.regularization.regularizer import LinearityRegularizer

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = {"cosine": 0.3, "mse": 0.01, "linearity": 0.7}
ROWS, LENGTH = 8, 20  # 4·d real tokens at least, with padding


def tokens(seed=0, rows=ROWS, length=LENGTH):
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(side="right"):
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[1, 15:] = mask[3, 9:] = 0
    return mask if side == "right" else mask.flip(1)


class Toy(nn.Module):
    """No transformers: small enough to be compiled in a test."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))

    def forward(self, input_ids):
        h = self.embedding(input_ids)
        for block in self.blocks:
            h = h + 0.5 * self.call(block, h)
            h = h.tanh()
        return h

    def call(self, block, h):
        return block(h)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def plain(model, family, mask=None, **weights):
    """Loss and gradients without the code under test."""
    ids = tokens()
    torch.manual_seed(0)  # dropout
    out, hidden = states(model, family, input_ids=ids, labels=ids, attention_mask=mask)
    loss = out.loss + formula(hidden, torch.ones_like(ids).bool() if mask is None else mask.bool(), **weights)
    loss.backward()
    return loss.detach(), gradients(model)


def regularized(model, regularizer, mask=None):
    ids = tokens()
    torch.manual_seed(0)
    out = model(input_ids=ids, labels=ids, attention_mask=mask)
    loss = out.loss + regularizer.loss()
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same(got, wanted, **tolerance):
    assert got[0] == pytest.approx(float(wanted[0]), rel=tolerance.get("rtol", 1e-5))
    assert got[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        scale = float(gradient.abs().max())
        error = float((got[1][name] - gradient).abs().max())
        assert error <= tolerance.get("rtol", 1e-5) * scale + tolerance.get("atol", 1e-12), name


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("family", BLOCKS)
def test_loss_and_gradients_are_those_of_the_formula(family, side):
    single = (family, side) == ("mpt", "left")  # transformers' own states are NaN there in float64
    model = tiny(family).to(torch.float32 if single else torch.float64).train()
    mask = None if side is None else padded(side)
    wanted = plain(model, family, mask, **WEIGHTS)
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        assert_same(regularized(model, regularizer, mask), wanted, rtol=1e-3 if single else 1e-9)


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_penalty_by_itself_and_its_term(name):
    model = tiny("llama").double().train()
    wanted = plain(model, "llama", padded(), **{name: 0.5})
    unweighted = plain(model, "llama", padded(), **{name: 1.0})[0] - plain(model, "llama", padded())[0]
    with LinearityRegularizer(model, **{name: 0.5}) as regularizer:
        assert_same(regularized(model, regularizer, padded()), wanted)
        term = regularizer.terms()[name]
    assert not term.requires_grad
    mean = float(unweighted) / 3
    assert float(term) == pytest.approx(1 - mean if name == "linearity" else mean, rel=1e-5)


def test_the_score_is_that_of_a_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 30, 8, generator=generator) * torch.logspace(-1, 2, 8) + 5
    y = x + x @ torch.randn(8, 8, generator=generator) / 50 + torch.randn(4, 30, 8, generator=generator)
    rows = torch.arange(0, 120, 2)
    a, b = (h.double().numpy().reshape(-1, 8)[::2] for h in (x, y))
    delta, centred = (b - a) - (b - a).mean(0), a - a.mean(0)
    alpha = RIDGE * np.square(centred).sum() / 8
    fitted = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(centred, delta)
    rss = np.square(delta - fitted.predict(centred)).sum() + alpha * np.square(fitted.coef_).sum()
    expected = 1 - rss / np.square(delta).sum()
    assert float(batch_linearity(x, y, rows)) == pytest.approx(expected, abs=1e-6)
    assert float(batch_linearity(x.double(), y.double(), rows)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_gradients_of_the_score(ridge):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 10, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    rows = torch.tensor([0, 1, 2, 4, 5, 7, 8, 11, 12, 13, 17, 19])
    assert torch.autograd.gradcheck(lambda x, y: batch_linearity(x, y, rows, ridge=ridge), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: 3 * batch_linearity(x, y, ridge=ridge), (x, y))


@pytest.mark.skipif(not has_triton(), reason="no triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_score_from_the_triton_kernels(monkeypatch, dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(96, 8, generator=generator) * torch.logspace(-1, 1, 8) + 2).to(dtype)
    y = (x + x @ torch.randn(8, 8, generator=generator).to(dtype) / 20 + torch.randn(96, 8, generator=generator)).to(
        dtype
    )
    monkeypatch.setenv("LINSCORE_BACKEND", "triton")
    score = float(batch_linearity(x.requires_grad_(), y, torch.arange(3, 90)))
    wanted = float(ridge_score(x.detach().double()[3:90], y.double()[3:90]))
    assert score == pytest.approx(wanted, abs=1e-5 if dtype is torch.float32 else 2e-3)


def within(x, y, rows):
    """X_c and δ_c `[n, d]`, by the batch's own means."""
    x, y = x.flatten(0, -2)[rows], y.flatten(0, -2)[rows]
    return x - x.mean(0), (y - x) - (y - x).mean(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_running_moments_give_the_map_that_a_batch_is_held_against(dtype):
    """B by the normal equations of all batches, weighted by their age; a constant for the gradients."""
    generator, decay, rows = torch.Generator().manual_seed(0), 0.7, torch.arange(1, 24)
    running, gram, cross = RunningMoments(decay), torch.zeros(6, 6).double(), torch.zeros(6, 6).double()
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64) / 4
    for _ in range(4):
        x = torch.randn(2, 12, 6, generator=generator).to(dtype) + 3
        y = (x.double() + x @ mix.to(dtype) + torch.randn(2, 12, 6, generator=generator)).to(dtype)
        x.requires_grad_()
        y.requires_grad_()
        exact = [h.detach().double().requires_grad_() for h in (x, y)]
        x_c, delta_c = within(*exact, rows)
        gram = decay * gram + (x_c.T @ x_c).detach()
        cross = decay * cross + (x_c.T @ delta_c).detach()
        b = torch.linalg.solve(gram + RIDGE * gram.trace() / 6 * torch.eye(6).double(), cross)
        wanted = 1 - (delta_c - x_c @ b).square().sum() / delta_c.square().sum()
        wanted.backward()
        score = batch_linearity(x, y, rows, running=running)
        score.backward()
        small = 1e-9 if dtype is torch.float64 else 1e-5
        assert float(score.detach()) == pytest.approx(float(wanted.detach()), abs=small)
        for got, true in zip((x, y), exact, strict=True):
            assert torch.allclose(got.grad.double(), true.grad, rtol=1e-3, atol=small)
    assert running.rows == pytest.approx(23 * (1 + 0.7 + 0.49 + 0.343))


def test_small_batches_train_on_running_moments_once_they_hold_enough():
    model, size = tiny("llama").train(), 60  # tokens of a batch; 4·d = 128
    with LinearityRegularizer(model, linearity=1.0, running=0.9) as regularizer:
        moved = []
        for seed in range(5):
            model(input_ids=tokens(seed, rows=3))
            loss = regularizer.loss()
            assert 0 < float(loss.detach()) < 3 * 1.5
            moved.append(loss.requires_grad)
    held = np.cumsum(size * 0.9 ** np.arange(5))
    assert moved == list(held >= 4 * 32)


def test_running_moments_can_lower_linearity_too():
    model = tiny("llama").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with LinearityRegularizer(model, linearity=-1.0, running=0.8) as regularizer:
        curve = []
        for _ in range(12):
            model(input_ids=tokens(rows=6))
            loss = regularizer.loss()
            if loss.requires_grad:
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            curve.append(float(regularizer.terms()["linearity"]))
    assert curve[-1] < curve[3] - 0.01


@pytest.mark.parametrize(
    ("running", "message"),
    [
        (1.0, "running is 1.0: give a decay between 0 and 1"),
        (0.5, r"decay by 0.5 over batches of 40 real tokens hold 80, fewer than the 128 that width 32 needs"),
    ],
)
def test_running_moments_that_would_never_hold_enough(running, message):
    model = tiny("llama").train()
    with pytest.raises(LinscoreError, match=message):  # noqa: PT012
        regularizer = LinearityRegularizer(model, linearity=1.0, running=running)
        with regularizer:
            model(input_ids=tokens(rows=2))


def test_a_block_that_adds_a_constant_is_linear():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for y in (x + 0, x * 0 + 1.0):
        score = batch_linearity(x, y)
        score.backward()
        assert float(score.detach()) == pytest.approx(1, abs=5e-3)
        assert x.grad.isfinite().all()


def test_states_that_are_not_finite_score_nan():
    x, y = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0)).unbind()
    x[3] = torch.nan
    assert batch_linearity(x, y).isnan()
    assert batch_linearity(x, y, torch.arange(4, 64)).isfinite()


def test_bfloat16_states_are_read_in_float32():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator).bfloat16().requires_grad_()
    y = (x + torch.randn(200, 8, generator=generator)).bfloat16().detach().requires_grad_()
    exact = [h.detach().double().requires_grad_() for h in (x, y)]
    wanted = ridge_score(*exact)
    with torch.autocast("cpu", torch.bfloat16):
        score = batch_linearity(x, y)
        score.backward()
    wanted.backward()
    assert score.dtype == torch.float32
    assert float(score.detach()) == pytest.approx(float(wanted.detach()), abs=1e-6)
    for got, true in zip((x, y), exact, strict=True):
        assert got.grad.dtype == torch.bfloat16
        assert torch.allclose(got.grad.double(), true.grad, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_the_sign_says_whether_linearity_rises_or_falls(weight):
    model = tiny("llama").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    curve = []
    with LinearityRegularizer(model, linearity=weight) as regularizer:
        for _ in range(4):
            model(input_ids=tokens())
            regularizer.loss().backward()
            optimizer.step()
            optimizer.zero_grad()
            curve.append(float(regularizer.terms()["linearity"]))
    assert (np.diff(curve) * weight > 0).all()


def test_without_weights_nothing_is_hooked():
    model = tiny("llama").train()
    regularizer = LinearityRegularizer(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert (float(regularizer.loss()), regularizer.terms()) == (0.0, {})


def test_what_the_model_computes_stays_the_same():
    model = tiny("gpt2").train()
    torch.manual_seed(0)
    before = model(input_ids=tokens()).logits
    with LinearityRegularizer(model, **WEIGHTS):
        torch.manual_seed(0)
        assert torch.equal(model(input_ids=tokens()).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_only_training_forwards_are_recorded():
    model = tiny("llama")
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        model(input_ids=tokens())
        with torch.no_grad():
            model.train()(input_ids=tokens())
        with pytest.raises(LinscoreError, match="training mode"):
            regularizer.loss()
        model(input_ids=tokens())
        model.eval()(input_ids=tokens(1))
        regularizer.loss()
        with pytest.raises(LinscoreError, match="before each"):
            regularizer.loss()


def test_micro_batches_add_up():
    model = tiny("llama").double().train()
    one = plain(model, "llama", **WEIGHTS)[1]
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        for _ in range(2):
            model(input_ids=tokens(5))  # a forward whose penalty nobody takes
            out = model(input_ids=tokens(), labels=tokens())
            (0.5 * (out.loss + regularizer.loss())).backward()
    assert all(torch.allclose(gradient, one[name], rtol=1e-5) for name, gradient in gradients(model).items())


def test_a_broken_forward_leaves_nothing_behind():
    model = tiny("llama").train()
    with LinearityRegularizer(model, linearity=1.0) as regularizer:
        with pytest.raises(
            LinscoreError, match=r"40 real tokens .* at least 128 tokens, running=0.99 .*, or use cosine"
        ):
            model(input_ids=tokens(rows=2))
        with pytest.raises(LinscoreError, match="before each"):
            regularizer.loss()
        model(input_ids=tokens())
        assert regularizer.loss().isfinite()


def test_padding_does_not_make_a_batch_large_enough():
    model, mask = tiny("llama").train(), padded()
    mask[4:, 10:] = 0
    with LinearityRegularizer(model, linearity=1.0), pytest.raises(LinscoreError, match="104 real tokens"):
        model(input_ids=tokens(), attention_mask=mask)


def test_states_are_let_go_after_backward():
    model, seen = tiny("llama").train(), []
    model.model.layers[1].register_forward_hook(lambda _m, _a, out: seen.append(weakref.ref(out)))
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        regularized(model, regularizer)
        gc.collect()
        assert [state() for state in seen] == [None]


def test_states_are_let_go_after_an_error():
    model, seen = tiny("llama").train(), []
    model.model.layers[1].register_forward_hook(lambda _m, _a, out: seen.append(weakref.ref(out)))
    model.model.norm.register_forward_hook(lambda *_: 1 / 0)
    with LinearityRegularizer(model, **WEIGHTS):
        with pytest.raises(ZeroDivisionError):
            model(input_ids=tokens())
        gc.collect()
        assert [state() for state in seen] == [None]


def test_frozen_embeddings_are_no_obstacle():
    model = tiny("llama").double().train()
    model.get_input_embeddings().requires_grad_(False)
    wanted = plain(model, "llama", **WEIGHTS)
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        assert_same(regularized(model, regularizer), wanted)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_gradient_checkpointing_changes_nothing_or_is_refused(family, reentrant):
    model = tiny(family).double().train()
    # Of a copy, for transformers leaves hooks in a model whose hidden states were asked for: see `can_rerun`.
    wanted = plain(copy.deepcopy(model), family, padded(), **WEIGHTS)
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        enable_checkpointing(model, reentrant)
        if "__call__" in vars(GradientCheckpointingLayer):
            with pytest.raises(LinscoreError, match="upgrade transformers"):
                regularized(model, regularizer, padded())
        else:
            assert_same(regularized(model, regularizer, padded()), wanted)


@pytest.mark.parametrize("weights", [{"cosine": 1.0}, {"linearity": 1.0}])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("by", ["block", "caller"])
def test_checkpointing_of_whole_calls_is_refused(by, reentrant, weights):
    """As in transformers 5.17, and in older code of the Hub: the hooks would run again in backward."""

    class Block(nn.Linear):
        gradient_checkpointing = by == "block"

        def __call__(self, h):
            return checkpoint(super().__call__, h, use_reentrant=reentrant) if by == "block" else super().__call__(h)

    model = Toy()
    model.blocks = nn.ModuleList(Block(8, 8) for _ in range(2))
    if by == "caller":
        model.call = lambda block, h: checkpoint(block, h, use_reentrant=reentrant)
    message = "gradient checkpointing runs whole block calls again|tap ran again in backward"
    with LinearityRegularizer(model, **weights) as regularizer:
        if (by, reentrant) == ("caller", False):  # forward cannot know
            loss = model(tokens()).sum() + regularizer.loss()
            with pytest.raises(LinscoreError, match=message):
                loss.backward()
        else:
            with pytest.raises(LinscoreError, match=message):
                model(tokens())


def test_mixed_precision():
    model = tiny("llama").train()
    wanted = plain(copy.deepcopy(model).double(), "llama", **WEIGHTS)
    wanted = (wanted[0], {name: gradient.float() for name, gradient in wanted[1].items()})
    errors = []
    for run in (lambda m: plain(m, "llama", **WEIGHTS), lambda m: regularized(m, LinearityRegularizer(m, **WEIGHTS))):
        with torch.autocast("cpu", torch.bfloat16):
            got = run(copy.deepcopy(model))[1]
        errors.append(max(float((got[n] - g).norm() / g.norm()) for n, g in wanted[1].items()))
    assert errors[1] <= 2 * errors[0]


def test_compiled_models():
    model = Toy()
    with LinearityRegularizer(model, **WEIGHTS) as regularizer:
        found = []
        for run in (model, torch.compile(model, backend="eager")):
            for seed in (0, 1):
                out = run(tokens(seed))
                (out.square().mean() + regularizer.loss()).backward()
            found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(gradient, found[1][name], rtol=1e-5) for name, gradient in found[0].items())


def test_processes(tmp_path):
    """DistributedDataParallel finds every parameter, though penalties are no output of the model."""
    model = tiny("llama").double().train()
    wanted = plain(model, "llama", **WEIGHTS)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with LinearityRegularizer(model, **WEIGHTS) as regularizer:
            wrapped = nn.parallel.DistributedDataParallel(model)
            for _ in range(2):
                loss, _ = regularized(wrapped, regularizer)
                assert_same((loss, gradients(model) or wanted[1]), wanted)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(weight):
    with pytest.raises(LinscoreError, match=r"the weight mse is .*: give a finite number"):
        LinearityRegularizer(tiny("llama"), mse=weight)


def test_masks_that_are_not_read():
    model = tiny("llama").train()
    mask = torch.ones(ROWS, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    with (
        LinearityRegularizer(model, cosine=1.0),
        pytest.raises(LinscoreError, match=r"give attention_mask .* \[B, T\]"),
    ):
        model(input_ids=tokens(), attention_mask=mask)


def test_a_mask_given_by_position():
    model = tiny("llama").double().train()
    with LinearityRegularizer(model, cosine=1.0) as regularizer:
        model(input_ids=tokens(), attention_mask=padded())
        by_name = regularizer.loss()
        model(tokens(), padded())
        assert torch.equal(regularizer.loss(), by_name)
