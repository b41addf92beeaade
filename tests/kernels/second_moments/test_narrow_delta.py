"""A given δ that is narrower than x: second moments [Σx̂x̂ᵀ | Σx̂δ̂ᵀ] of shape [d, d + e]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linscore_kernels import SCALARS, Pilot, accumulate, gram, has_triton, token_stats
from linscore_kernels.second_moments.eager_products import Halves, Strips
from linscore_kernels.second_moments.eager_workspace import workspace
from narrow_delta import assert_close, numpy_of, sample

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BACKENDS = ["eager", pytest.param("triton", marks=pytest.mark.skipif(not has_triton(), reason="no triton"))]
# Of two 16-bit operands, rounded once each, of split or float32 ones, and of float64 ones.
ROUNDED, SPLIT, DOUBLE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}, 2e-6, 1e-13


def shifted(x: torch.Tensor, delta: torch.Tensor, pilot: Pilot) -> tuple[np.ndarray, np.ndarray]:
    x, delta, center_x, center_delta = numpy_of(x, delta, pilot.center_x, pilot.center_delta)
    return x - center_x, delta - center_delta


def bound(dtype: torch.dtype, precision: str, backend: str) -> float:
    if backend == "eager":
        return DOUBLE if precision == "exact" else SPLIT
    return SPLIT if precision == "exact" else ROUNDED.get(dtype, SPLIT)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d", "e"), [(77, 67, 5), (30, 67, 40), (40, 32, 32), (1, 20, 1)])
def test_sums_are_those_of_float64(n, d, e, dtype, precision, backend):
    x, delta = sample(n, d, e, dtype)
    pilot = Pilot.choose(x, None, delta)
    assert pilot is not None
    pilot = pilot.without_limits()
    second = torch.zeros(d, d + e, dtype=torch.float64)
    sums = accumulate(x, None, delta, second, pilot=pilot, precision=precision, backend=backend)
    x_hat, delta_hat = shifted(x, delta, pilot)
    relative = bound(dtype, precision, backend)
    assert_close(second[:, :d].triu(), np.triu(x_hat.T @ x_hat), relative)
    assert_close(second[:, d:], x_hat.T @ delta_hat, relative)
    assert_close(sums.sum_x, x_hat.sum(0), 1e-5)
    assert_close(sums.sum_delta, delta_hat.sum(0), 1e-5)
    assert sums.n == n
    assert sums.scalars[SCALARS.index("q_delta")].item() == pytest.approx((delta_hat**2).sum(), rel=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_beyond_its_width_delta_counts_as_zero_in_per_token_figures(dtype, backend):
    x, delta = sample(60, 37, 11, dtype)
    pilot = Pilot.choose(x, None, delta)
    stats = token_stats(x, delta=delta, pilot=pilot, backend=backend)
    x64, delta64 = numpy_of(x, delta)
    y64 = x64 + np.pad(delta64, ((0, 0), (0, 26)))
    norms = [np.linalg.norm(t, axis=1) for t in (x64, y64, delta64)]
    np.testing.assert_allclose(stats.figures[:3].numpy(), norms, rtol=2e-6)
    assert not stats.operands[len(stats.operands) // 2 :, :, 11:].any()
    assert not stats.sums[1, 11:].any()
    second = torch.zeros(37, 48, dtype=torch.float64)
    scalars = accumulate(x, None, delta, second, pilot=pilot, backend=backend).scalars
    cosine = (x64 * y64).sum(1) / (norms[0] * norms[1])
    assert scalars[SCALARS.index("block_influence")].item() == pytest.approx((1 - cosine).sum(), rel=1e-4)
    assert scalars[SCALARS.index("delta_ratio")].item() == pytest.approx((norms[2] / norms[0]).sum(), rel=1e-6)
    bits = {torch.float16: 10, torch.bfloat16: 7}.get(dtype, 23)
    ulp = 2.0 ** (np.floor(np.log2(np.abs(delta64))) - bits)
    rounding = 0.0 if dtype is torch.float32 and backend == "eager" else (ulp**2).sum() / 12
    assert scalars[SCALARS.index("rounding")].item() == pytest.approx(rounding, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_picked_rows_strides_and_a_negative_sign(precision, backend):
    x, delta = sample(100, 40, 9)
    pilot = Pilot.choose(x, None, delta)
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:60]
    options = {"pilot": pilot, "precision": precision, "backend": backend}
    picked, apart = torch.zeros(2, 40, 49, dtype=torch.float64)
    wide = torch.full((100, 30), float("nan"))
    wide[:, 3:30:3] = delta
    accumulate(x.T.contiguous().T, None, wide[:, 3:30:3], picked, rows=rows, **options)
    sums = accumulate(x[rows], None, delta[rows], apart, **options)
    assert torch.equal(picked, apart)
    assert sums.n == 60
    start = torch.randn(40, 49, dtype=torch.float64)
    second = start.clone()
    for sign in (1, -1):
        accumulate(x, None, delta, second, sign=sign, **options)
    torch.testing.assert_close(second, start, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_gram_multiplies_as_many_columns_of_delta_as_it_has_room_for(precision, backend):
    x, delta = sample(70, 67, 12)
    stats = token_stats(x, delta=delta, pilot=Pilot.choose(x, None, delta), precision=precision, backend=backend)
    out = torch.zeros(67, 79, dtype=torch.float64)
    gram(stats.operands, out, backend=backend)
    parts = 2 if len(stats.operands) == 4 else 1
    x_hat, delta_hat = (half.double().sum(0)[:70].numpy() for half in stats.operands.split(parts))
    assert_close(out[:, :67].triu(), np.triu(x_hat[:, :67].T @ x_hat[:, :67]), 1e-6)
    assert_close(out[:, 67:], x_hat[:, :67].T @ delta_hat[:, :12], 1e-6)


def test_the_padding_of_delta_is_not_multiplied():
    operands = torch.randn(2, 50, 64)
    operands[1, :, 8:] = float("nan")
    for kind in (Halves, Strips):
        second = torch.zeros(64, 72)
        with workspace(operands.device) as work:
            products = kind(second, operands, work)
            products.add(*operands)
            products.finish()
        assert second.isfinite().all()


def test_wide_states_take_the_products_of_wide_states():
    x, delta = sample(300, 1024, 30)
    second = torch.zeros(1024, 1054, dtype=torch.float64)
    pilot = Pilot.choose(x, None, delta)
    accumulate(x, None, delta, second, pilot=pilot)
    x_hat, delta_hat = shifted(x, delta, pilot)
    assert_close(second[:, 1024:], x_hat.T @ delta_hat, SPLIT)


@pytest.mark.slow
@pytest.mark.skipif(not has_triton(), reason="no triton")
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_every_way_to_the_products_of_triton_agrees(precision, monkeypatch):
    from kernel_oracles import DEVICE, torch_everywhere
    from linscore_kernels.second_moments import triton as triton_backend
    from linscore_kernels.tuning.parameters import Launch

    x, delta = (t.to(DEVICE) for t in sample(60, 40, 34, torch.bfloat16))
    pilot = Pilot.choose(x, None, delta)

    def second(**options) -> torch.Tensor:
        out = torch.zeros(40, 74, dtype=torch.float64, device=DEVICE)
        triton_backend.accumulate(x, delta, out, delta_given=True, pilot=pilot, precision=precision, **options)
        return torch.cat([out[:, :40].triu(), out[:, 40:]], 1)

    plain = second(launch=Launch(64, 64, 64, warps=4, stages=2, descriptors=False))
    tolerance = {"rtol": 1e-5, "atol": 1e-5 * plain.abs().max().item()}
    for descriptors in (False, True):
        launch = Launch(32, 32, 32, warps=4, stages=2, descriptors=descriptors, halves=True, flush=32)
        torch.testing.assert_close(second(launch=launch, splits=2), plain, **tolerance)
    torch_everywhere(monkeypatch)
    monkeypatch.setattr(triton_backend, "launch_gram", None)
    torch.testing.assert_close(second(), plain, **tolerance)
