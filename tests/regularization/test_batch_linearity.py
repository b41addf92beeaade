"""The score of a batch, against a ridge regression and the normal equations in float64."""

import numpy as np
import pytest
import torch
from formulas import RIDGE, ridge_score
from linscore_kernels import has_triton
from regularizing import tokens
from sklearn.linear_model import Ridge
from tiny_models import tiny

from linscore.errors import LinscoreError
from linscore.regularization.batch_linearity import RunningMoments, batch_linearity
from linscore.regularization.regularizer import LinearityRegularizer

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_gradients_of_the_score(ridge):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 10, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    rows = torch.tensor([0, 1, 2, 4, 5, 7, 8, 11, 12, 13, 17, 19])
    assert torch.autograd.gradcheck(lambda x, y: batch_linearity(x, y, rows, ridge=ridge), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: 3 * batch_linearity(x, y, ridge=ridge), (x, y))


@pytest.mark.slow
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
