"""The Triton kernels against float64 formulas written here: on a GPU, or on the CPU in Triton's interpreter.

Budget: at most twice the error of the plain torch expression in the same dtype, plus one rounding of the output.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from kernel_oracles import DEVICE, DTYPES, FLOAT32_ERROR, SMALL, error, hard, moments, products, shifted
from linscore_kernels import launching
from linscore_kernels.errors import LinscoreError
from linscore_kernels.pilot import Pilot
from linscore_kernels.residuals import triton as residuals
from linscore_kernels.second_moments import token_stats_kernel
from linscore_kernels.second_moments import triton as triton_backend
from linscore_kernels.sums import FIGURES, HEAVY, LIGHT, NONFINITE, SCALARS
from linscore_kernels.tuning.parameters import Launch

PATHS = [(dtype, "fast") for dtype in DTYPES] + [(dtype, "exact") for dtype in DTYPES[1:]]  # float32 has only one


def token_stats(x, y, pilot, **options):
    return triton_backend.token_stats(x, y, pilot=pilot, delta_given=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "precision"), PATHS)
@pytest.mark.parametrize(("n", "d"), [(1, 32), (77, 40), (300, 67), (100, 130)])
def test_second_moments_stay_in_the_error_budget(n, d, dtype, precision):
    x, y, pilot = hard(n, d, dtype)
    x_hat, delta_hat = shifted(x, y.double() - x.double(), pilot)
    second, _ = moments(x, y, pilot, precision=precision)
    if dtype is torch.float32 or precision == "exact":
        budget = max(FLOAT32_ERROR, 2 * error(products(x_hat.float(), delta_hat.float()), x_hat, delta_hat, pilot))
    else:
        rounded = products(x_hat.to(dtype).float(), delta_hat.to(dtype).float())
        budget = 2 * error(rounded, x_hat, delta_hat, pilot)
    assert error(second, x_hat, delta_hat, pilot) <= budget


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_single_operands_are_centred_and_rounded_once(dtype):
    x, y, pilot = hard(77, 67, dtype)
    operands = token_stats(x, y, pilot).operands
    (parts, rows, width), stored = triton_backend.operand_shape(77, 67, dtype, "fast")
    assert operands.shape == (parts, rows, width)
    assert operands.dtype is stored is dtype
    for got, true in zip(operands, shifted(x, y.double() - x.double(), pilot), strict=True):
        ulp = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(true.abs())))
        assert ((got[:77, :67].double() - true).abs() <= 0.5005 * ulp + torch.finfo(dtype).tiny).all()
        assert not got[77:].any()
        assert not got[:, 67:].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_per_token_figures_match_their_definitions(dtype):
    x, y, pilot = hard(77, 67, dtype)
    x64, y64 = x.double(), y.double()
    stats = token_stats(x, y, pilot)
    ulp = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(y64.abs())))
    _, delta_hat = shifted(x, y64 - x64, pilot)
    true = {
        "norm_x": x64.norm(dim=1),
        "norm_y": y64.norm(dim=1),
        "norm_delta": (y64 - x64).norm(dim=1),
        "q_delta": delta_hat.square().sum(1),
        "rounding": ulp.square().sum(1) / 12,
    }
    for name, got in zip(FIGURES, stats.figures.double(), strict=True):
        torch.testing.assert_close(got, true[name], rtol=2e-6, atol=0, msg=name)
    assert stats.status.dtype is torch.uint8
    assert (stats.status == LIGHT).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_over_light_rows_match_their_definitions(dtype):
    x, y, pilot = hard(150, 40, dtype)
    x64, y64 = x.double(), y.double()
    x_hat, delta_hat = shifted(x, y64 - x64, pilot)
    _, sums = moments(x, y, pilot)
    assert sums.n.item() == 150
    assert (sums.sum_x - x_hat.sum(0)).norm() <= 3e-7 * x_hat.abs().sum(0).norm()
    assert (sums.sum_delta - delta_hat.sum(0)).norm() <= 3e-7 * (y64.abs() + x64.abs()).sum(0).norm()
    cosine = (x64 * y64).sum(1) / (x64.norm(dim=1) * y64.norm(dim=1))
    scalars = dict(zip(SCALARS, sums.scalars.tolist(), strict=True))
    assert scalars["block_influence"] == pytest.approx((1 - cosine).sum().item(), rel=1e-5)
    assert scalars["q_delta"] == pytest.approx(delta_hat.square().sum().item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")  # NumPy's, in the interpreter
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_heavy_and_nonfinite_rows_leave_no_trace_but_their_status(precision):
    x, y, pilot = hard(100, 40, torch.bfloat16)
    x, y = x.clone(), y.clone()
    x[3] *= 1000
    y[50] *= 1000
    x[7, 5] = float("nan")
    y[9, 39] = float("inf")
    x[11], y[11] = 3e38, 3e38  # finite, but its norm is not
    second, sums = moments(x, y, pilot, precision=precision)
    expected = torch.full((100,), LIGHT, dtype=torch.uint8, device=DEVICE)
    expected[[3, 50, 11]], expected[[7, 9]] = HEAVY, NONFINITE
    assert torch.equal(sums.status, expected)
    light = (expected == LIGHT).nonzero()[:, 0]
    alone, sums_alone = moments(x, y, pilot, precision=precision, rows=light)
    assert sums.n.item() == sums_alone.n.item() == len(light)
    torch.testing.assert_close(second.triu(), alone.triu(), rtol=1e-5, atol=1e-6 * second.abs().max().item())
    torch.testing.assert_close(sums.scalars, sums_alone.scalars, rtol=1e-12, atol=0)
    torch.testing.assert_close(sums.sum_x, sums_alone.sum_x, rtol=1e-5, atol=1e-5 * sums.sum_x.abs().max().item())


def test_a_row_that_an_operand_cannot_hold_is_heavy():
    x, y, pilot = hard(64, 32, torch.float16)
    pilot = pilot.without_limits()
    x, y = x.clone(), y.clone()
    narrow = pilot.scale_x.argmax()
    x[5, narrow], y[5, narrow] = -60000, 60000  # δ overflows float16, and x̂ scaled exceeds 32768
    for precision in ("fast", "exact"):
        second, sums = moments(x, y, pilot, precision=precision)
        assert sums.status.nonzero()[:, 0].tolist() == [5]
        assert second.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_picked_rows_strides_and_padding_change_nothing(dtype):
    x, y, pilot = hard(200, 40, dtype)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:90].to(DEVICE)
    second, sums = moments(x[rows], y[rows], pilot)
    transposed = x.T.contiguous().T
    sliced = torch.cat([y, y], 1)[:, ::2].new_zeros(200, 80)
    sliced[:, ::2] = y
    again, sums_again = moments(transposed, sliced[:, ::2], pilot, rows=rows)
    assert torch.equal(second, again)
    assert all(torch.equal(a, b) for a, b in zip(sums[:3], sums_again[:3], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_given_delta_is_taken_as_it_is(dtype):
    x, y, pilot = hard(90, 40, dtype)
    delta = (y.float() - x.float()).to(dtype)
    second, sums = moments(x, delta, pilot, delta_given=True, precision="exact")
    assert error(second, *shifted(x, delta, pilot), pilot) <= 2 * FLOAT32_ERROR
    ulp = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(delta.double().abs())))
    ulp = torch.where(delta == 0, 0.0, ulp)
    assert sums.scalars[SCALARS.index("rounding")].item() == pytest.approx(ulp.square().sum().item() / 12, rel=1e-5)
    norm_y = (x.double() + delta.double()).norm(dim=1).sum().item()
    assert sums.scalars[SCALARS.index("norm_y")].item() == pytest.approx(norm_y, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_sign_minus_one_takes_rows_out_again_and_leaves_what_was_there(precision):
    x, y, pilot = hard(60, 32, torch.float16)
    start = torch.randn(32, 64, dtype=torch.float64, device=DEVICE)
    second = start.clone()
    for sign in (1, -1):
        options = {"delta_given": False, "pilot": pilot, "precision": precision, "launch": SMALL}
        triton_backend.accumulate(x, y, second, sign=sign, **options)
    torch.testing.assert_close(second, start, rtol=0, atol=1e-8)
    assert torch.equal(second[:, :32].tril(-1), start[:, :32].tril(-1))


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_splitting_flushing_halves_and_descriptors_agree(precision, descriptors):
    x, y, pilot = hard(200, 67, torch.bfloat16)  # four steps of 64 tokens, two of each split, flushed one by one
    plain, _ = moments(x, y, pilot, precision=precision)
    launch = Launch(64, 64, 64, warps=4, stages=2, descriptors=descriptors, halves=True, flush=64)
    other, _ = moments(x, y, pilot, precision=precision, launch=launch, splits=2)
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_a_feature_that_moves_in_steps_makes_no_row_heavy():
    x, y, _ = hard(100, 32, torch.bfloat16)
    y[:, 0] = x[:, 0]
    y[::7, 0] *= 1.0078125  # one bf16 step in every seventh row: the median deviation of δ is 0
    pilot = Pilot.choose(x, y)
    assert pilot is not None
    _, sums = moments(x, y, pilot, precision="exact")
    assert (sums.status == LIGHT).all()


@pytest.mark.slow
def test_the_same_call_gives_the_same_bits():
    x, y, pilot = hard(200, 67, torch.bfloat16)
    (one, sums), (two, sums_two) = (moments(x, y, pilot, splits=2) for _ in range(2))
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(sums[:3], sums_two[:3], strict=True))


@pytest.mark.slow
def test_chunks_add_up(monkeypatch):
    monkeypatch.setattr(triton_backend, "OPERAND_BYTES", 1)
    monkeypatch.setattr(triton_backend, "LEAST_CHUNK", 64)
    x, y, pilot = hard(150, 32, torch.bfloat16)
    second, sums = moments(x, y, pilot, precision="exact", rows=torch.arange(150, device=DEVICE))
    assert error(second, *shifted(x, y.double() - x.double(), pilot), pilot) <= 2 * FLOAT32_ERROR
    assert sums.n.item() == 150
    assert len(sums.status) == 150


@pytest.mark.slow
def test_wide_rows_are_shared_by_programs_that_agree(monkeypatch):
    x, y, pilot = hard(20, 130, torch.bfloat16)
    whole = token_stats(x, y, pilot)
    monkeypatch.setattr(token_stats_kernel, "WIDEST", 64)
    shared = token_stats(x, y, pilot)
    assert torch.equal(whole.operands, shared.operands)
    torch.testing.assert_close(whole.sums, shared.sums)
    torch.testing.assert_close(whole.figures, shared.figures)


@pytest.mark.slow
def test_gram_adds_the_products_of_the_operands_as_they_are():
    x, y, pilot = hard(90, 40, torch.bfloat16)
    unscaled = replace(pilot, scale_x=torch.full((40,), 1e9), scale_delta=torch.full((40,), 1e9)).to(DEVICE)
    for precision in ("fast", "exact"):
        stats = token_stats(x, y, pilot, precision=precision)
        out = torch.zeros(40, 80, device=DEVICE)
        triton_backend.gram(stats.operands, out)
        triton_backend.gram(stats.operands, out)
        x_hat, delta_hat = (half.double().sum(0)[:90, :40] for half in stats.operands.chunk(2))
        assert error(out.double() / 2, x_hat, delta_hat, unscaled) <= 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": torch.zeros(8, 16)}, r"both \[n, d\]"),
        ({"x": torch.zeros(8, 32, dtype=torch.float64)}, "convert it"),
        ({"rows": torch.zeros(3, dtype=torch.int32)}, "int64 indices"),
        ({"precision": "exakt"}, "choose fast or exact"),
        ({"x": torch.zeros(0, 32), "other": torch.zeros(0, 32)}, "no row"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_advice(change, message):
    x = torch.randn(8, 32)
    call = {"x": x, "other": x + 1, "delta_given": False} | change
    with pytest.raises(LinscoreError, match=message):
        triton_backend.token_stats(pilot=Pilot.choose(x, x + 1), **call)
    fitted = {"b": torch.eye(32), "mean_x": torch.zeros(32), "mean_delta": torch.zeros(32)}
    with pytest.raises(LinscoreError, match=message):
        residuals.residual_norms(**fitted, **call)


def test_tensors_without_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(launching, "interpreted", lambda: False)
    x = torch.zeros(8, 32)
    with pytest.raises(LinscoreError, match="use the eager backend"):
        triton_backend.token_stats(x, x, pilot=Pilot.choose(x, x), delta_given=False)
