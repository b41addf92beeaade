"""Figures of states of any size, of constant ones and under any of the caller's modes: the same, or refused."""

import gc
import weakref

import pytest
import torch
from linscore_kernels import NONFINITE, has_triton, residual_norms
from oracles import linear_cka, procrustes, states, svd_scores

from linscore import LinscoreError, Moments, block_metrics, centered_gram, fit_block_map, linearity

needs_triton = pytest.mark.skipif(not has_triton(), reason="no triton")


def figures(x, y, **options):
    moments = Moments(x.shape[1], folds=2, **options)
    half = len(x) // 2
    moments.update(x[:half], y[:half])
    moments.update(x[half:], y[half:], fold=1)
    return block_metrics(moments), moments


@pytest.mark.parametrize("scale", [2.0**-90, 1e-22, 1e-13, 1e-6, 1e14, 1e18, 2.0**110])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_the_same_at_every_scale(scale, dtype):
    x, y = ((t * scale).to(dtype) for t in states(1200, 12))
    plain = [t.double() / scale for t in (x, y)]
    got, moments = figures(x, y)
    expected, expected_no_residual = svd_scores(*plain)
    assert got.linearity == pytest.approx(expected, abs=1e-5)
    assert got.linearity_no_residual == pytest.approx(expected_no_residual, abs=1e-5)
    assert got.procrustes == pytest.approx(procrustes(*plain), abs=1e-5)
    assert got.norm_delta == pytest.approx((plain[1] - plain[0]).norm(dim=1).mean().item() * scale, rel=1e-5)
    assert got.delta_ratio == pytest.approx(((plain[1] - plain[0]).norm(dim=1) / plain[0].norm(dim=1)).mean().item())
    fitted = fit_block_map(moments)
    assert fitted.error == pytest.approx(1 - expected_no_residual, abs=1e-5)
    if dtype is torch.float32:
        missed = (y.double() - fitted(x)).norm(dim=1)
        torch.testing.assert_close(fitted.residual_norms(x, y).double(), missed, rtol=1e-4, atol=0)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-22, 1e-9])
def test_scores_are_the_same_at_every_scale_in_triton(monkeypatch, scale):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x, y = (t * scale for t in states(300, 12))
    got, _ = figures(x, y, backend="triton")
    assert got.linearity_no_residual == pytest.approx(svd_scores(x / scale, y / scale)[1], abs=1e-5)


@needs_triton
def test_residual_norms_of_tiny_16_bit_states(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x, y = ((t * 2.0**-80).bfloat16() for t in states(64, 16))
    fitted = {"b": torch.zeros(16, 16), "mean_x": torch.zeros(16), "mean_delta": torch.zeros(16)}
    got = residual_norms(x, y, **fitted, backend="triton")
    torch.testing.assert_close(got.double(), (y.double() - x.double()).norm(dim=1), rtol=1e-5, atol=0)


def test_what_is_added_may_be_tiny_beside_the_states():
    x, _ = states(600, 12)
    delta = 1e-25 * torch.tanh(x @ torch.randn(12, 12))
    moments = Moments(12)
    moments.update(x, delta=delta)
    got = fit_block_map(moments)
    assert got.error == pytest.approx(1 - svd_scores(x, x + 1e25 * delta.double())[1], abs=1e-5)


def test_gram_matrices_of_tiny_states():
    x, y = (t * 1e-22 for t in states(500, 8))
    x_c = (x.double() - x.double().mean(0)) * 1e22
    got = centered_gram(x, y)
    torch.testing.assert_close(got.c_xx, x_c.T @ x_c / x_c.square().sum(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("scale", "dtype"), [(1e-35, torch.float32), (1e-200, torch.float64), (1e60, torch.float64)])
def test_states_that_float32_cannot_hold_are_refused(scale, dtype):
    x, y = (t.to(dtype) * scale for t in states(300, 8))
    with pytest.raises(LinscoreError, match="multiply both by one power of two"):
        linearity(x, y)


def test_rows_whose_squares_overflow_are_left_out_and_said_so():
    x, y = (t.double() for t in states(300, 8))
    moments = Moments(8)
    moments.update(x, y)
    before = block_metrics(moments)
    assert (moments.update(x * 1e200, y * 1e200) == NONFINITE).all()
    assert block_metrics(moments) == before


def test_sums_that_overflow_are_refused():
    x, y = (t.double() for t in states(300, 8))
    moments = Moments(8)
    moments.update(x, y)
    moments.update(x * 1e153, y * 1e153)
    with pytest.raises(LinscoreError, match="overflowed"):
        block_metrics(moments)


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_score_leaves_0_to_1(precision, dtype):
    for seed in range(4):
        torch.manual_seed(seed)
        thin = torch.randn(400, 4) @ torch.randn(4, 8)
        for x in (torch.randn(400, 8), thin + 1e-3 * torch.randn(400, 8)):
            for y in (torch.randn(8).expand(400, 8).clone(), x @ torch.randn(8, 8), -x, 1.5 * x + 1, x.clone()):
                got, _ = figures(x.to(dtype), y.to(dtype), precision=precision)
                scores = (got.linearity, got.linearity_no_residual, got.procrustes, got.linearity_heldout)
                assert all(score is None or score <= 1 for score in scores)
                assert all(score is None or score >= 0 for score in scores[:3])


def test_a_constant_y_is_read_off_x_whole_and_has_no_linearity_of_its_own():
    x, _ = states(500, 8)
    y = torch.full_like(x, -5.1608)
    moments, after = Moments(8), Moments(8)
    moments.update(x, y)
    after.update(y, y)
    got = block_metrics(moments, after=after)
    assert got.linearity_no_residual == pytest.approx(1)
    assert got.linearity is got.procrustes is got.cka is got.linearity_heldout is None


def test_linear_cka_stays_what_it_was():
    x, y = states(300, 8)
    moments, after = Moments(8), Moments(8)
    moments.update(x, y)
    after.update(y, y)
    assert block_metrics(moments, after=after).cka == pytest.approx(linear_cka(x, y), abs=1e-5)


def test_moments_that_give_a_score_above_1_are_refused():
    x, y = states(300, 8)
    _, moments = figures(x, y)
    for cell in moments.light:
        cell.second[:, 8:] *= 2  # twice the products that x and δ have
    with pytest.raises(LinscoreError, match="precision=exact"):
        block_metrics(moments)


def test_sums_keep_no_graph_alive():
    moments, alive = Moments(8), []
    for _ in range(3):
        x = torch.randn(300, 8) * torch.ones(8, requires_grad=True)
        alive.append(weakref.ref(x))
        moments.update(x, x + torch.tanh(x))
    del x
    gc.collect()
    assert all(state() is None for state in alive)
    assert not any(getattr(moments.light[0], name).requires_grad for name in ("n", "sum_x", "second", "scalars"))
    assert not moments.pilot.center_x.requires_grad


def test_sums_that_began_in_inference_mode_go_on_outside():
    x, y = states(300, 8)
    with torch.inference_mode():
        moments = Moments(8)
        moments.update(x * 1, y * 1)
        merged = Moments(8).merge(moments).to("cpu")
    for one in (moments, merged):
        one.update(x, y)
        assert one.rows(0) == 600


@pytest.mark.parametrize("sign", [0, -3, 2])
def test_a_sign_is_one_of_two(sign):
    x, y = states(20, 4)
    with pytest.raises(LinscoreError, match="sign"):
        Moments(4).update(x, y, sign=sign)


@pytest.mark.parametrize("rows", [[-1, 2], [300]])
def test_rows_that_are_not_there_are_refused(rows):
    x, y = states(300, 8)
    moments = Moments(8)
    moments.update(x, y)
    with pytest.raises(LinscoreError, match="indices from 0 to 299"):
        moments.update(x, y, rows=torch.tensor(rows))
