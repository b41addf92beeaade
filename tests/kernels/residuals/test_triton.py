"""Residual norms of the Triton backend against float64, within what rounding the map to 16 bits may do."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kernel_oracles import DEVICE, DTYPES, ON_GPU, hard, torch_everywhere
from linscore_kernels.residuals import kernel as residual_norms_kernel
from linscore_kernels.residuals import triton as triton_backend
from linscore_kernels.residuals.kernel import launch_residual_norms, round_map
from linscore_kernels.tuning.parameters import Launch


def rounding_of_the_map(x, delta, b, mean_x, mean_delta):
    """The true norms, and how far rounding B alone may move them: ‖|x − μ_x| · u|B|‖, u the unit roundoff."""
    unit_roundoff = torch.finfo(x.dtype).eps / 2 if ON_GPU or x.dtype is torch.float16 else torch.finfo(x.dtype).eps
    x_hat = x.double() - mean_x
    true = (delta.double() - x_hat @ b - mean_delta).norm(dim=1)
    return true, (x_hat.abs() @ (unit_roundoff * b.abs())).norm(dim=1)


def fitted_map(x, delta):
    """A map B that explains about as much of δ as is left, one column of zeros, and the means."""
    d = x.shape[1]
    b = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    size_x, size_delta = x.double().std(0), delta.double().std(0)
    b *= size_delta / (size_x[:, None] * d**0.5)
    b[:, 5] = 0
    return {"b": b, "mean_x": x.double().mean(0), "mean_delta": delta.double().mean(0)}


TILES = [
    None,
    Launch(64, 64, 32, warps=4, stages=2, descriptors=True),
    Launch(32, 64, 64, warps=4, stages=2, descriptors=False, halves=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("launch", TILES, ids=["chosen", "descriptors", "halves"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize(("n", "d"), [(1, 32), (300, 67), (77, 144)])
def test_residual_norms_differ_by_no_more_than_rounding_the_map(n, d, dtype, launch):
    x, y, _ = hard(n + 2, d, dtype)  # one row has no deviation to scale a map by
    delta = y.double() - x.double()
    fitted = fitted_map(x, delta)
    true, bound = rounding_of_the_map(x[:n], delta[:n], **fitted)
    rounded = round_map(**fitted, dtype=dtype)
    got = launch_residual_norms(x[:n], y[:n], rounded, delta_given=False, launch=launch)
    assert got.shape == (n,)
    assert got.dtype is torch.float32
    assert ((got.double() - true).abs() <= bound + 1e-5 * true).all()


def test_a_map_that_float16_cannot_hold_is_scaled():
    x, y, _ = hard(50, 40, torch.float16)
    delta = y.double() - x.double()
    fitted = fitted_map(x, delta)
    fitted["b"][:, 3] *= 1e8
    fitted["b"][:, 4] *= 1e-8
    true, bound = rounding_of_the_map(x, delta, **fitted)
    got = triton_backend.residual_norms(x, y, delta_given=False, **fitted)
    assert ((got.double() - true).abs() <= bound + 1e-5 * true).all()


def test_residual_norms_take_picked_rows_and_a_given_delta():
    x, y, _ = hard(90, 40, torch.float16)
    delta = (y.float() - x.float()).to(x.dtype)
    rows = torch.randperm(90, generator=torch.Generator().manual_seed(1))[:33].to(DEVICE)
    fitted = fitted_map(x, delta)
    true, bound = rounding_of_the_map(x[rows], delta[rows], **fitted)
    got = triton_backend.residual_norms(x, delta, delta_given=True, rows=rows, **fitted)
    assert ((got.double() - true).abs() <= bound + 1e-5 * true).all()


def test_residual_norms_of_32_bit_input_and_exact_ones_are_not_rounded():
    x, y, _ = hard(90, 40, torch.bfloat16)
    fitted = fitted_map(x, y.double() - x.double())
    true, _ = rounding_of_the_map(x, y.double() - x.double(), **fitted)
    single = triton_backend.residual_norms(x.float(), y.float(), delta_given=False, **fitted)
    exact = triton_backend.residual_norms(x, y, delta_given=False, precision="exact", **fitted)
    torch.testing.assert_close(single.double(), true, rtol=1e-4, atol=0)
    torch.testing.assert_close(exact, true, rtol=1e-12, atol=0)


def test_a_row_that_is_not_finite_spoils_its_own_residual_norm_only():
    x, y, _ = hard(40, 40, torch.bfloat16)
    fitted = fitted_map(x, y.double() - x.double())
    clean = triton_backend.residual_norms(x, y, delta_given=False, **fitted)
    x = x.clone()
    x[7, 5] = float("nan")
    got = triton_backend.residual_norms(x, y, delta_given=False, **fitted)
    assert got.isnan().nonzero()[:, 0].tolist() == [7]
    others = torch.arange(40, device=DEVICE) != 7
    assert torch.equal(got[others], clean[others])


def test_where_torch_is_faster_it_gives_the_residual_norms(monkeypatch):
    torch_everywhere(monkeypatch)
    x, y, _ = hard(90, 40, torch.float16)
    fitted = fitted_map(x, y.double() - x.double())
    true, bound = rounding_of_the_map(x, y.double() - x.double(), **fitted)
    monkeypatch.setattr(residual_norms_kernel, "_residual_norms_kernel", None)
    monkeypatch.setattr(residual_norms_kernel, "TORCH_ROWS", 64)
    got = triton_backend.residual_norms(x, y, delta_given=False, **fitted)
    assert ((got.double() - true).abs() <= bound + 1e-5 * true).all()
