"""The Triton kernels against float64 formulas written here: on a GPU, or on the CPU in Triton's interpreter.

Budget: at most twice the error of the plain torch expression in the same dtype, plus one rounding of the output.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from linscore_kernels import triton_backend
from linscore_kernels.gram import splits_for, tile_list
from linscore_kernels.launch_parameters import GramLaunch
from linscore_kernels.stats import HEAVY, LIGHT, NONFINITE, SCALARS, Pilot

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
# The interpreter's time goes by programs and steps: unequal sides, so that the triangle crosses tiles, and long steps.
SMALL = GramLaunch(block_m=64, block_n=128, block_k=128 if not ON_GPU else 32, warps=4, stages=2, descriptors=False)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PATHS = [(dtype, "fast") for dtype in DTYPES] + [(dtype, "exact") for dtype in DTYPES[1:]]  # float32 has only one
FLOAT32_ERROR = 2e-7  # relative Frobenius error of "exact" and float32 (a plain float32 product: 1e-7)


def hard(n: int, d: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Pilot]:
    """A residual stream x, y with columns of scales over 1e4, one in eight with a mean of 30 σ, and its pilot.

    δ is a tenth of x. The pilot is taken from 64 further rows, as it is from earlier batches.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-2, 2, d)[torch.randperm(d, generator=generator)]
    mean = 30 * scale * (torch.arange(d) % 8 == 0)
    unit = torch.randn(n + 64, d, generator=generator)
    step = 0.1 * unit.roll(1, 1) + 0.05 * torch.randn(n + 64, d, generator=generator)
    x = (unit * scale + mean).to(dtype)
    y = (x + step * scale + mean / 10).to(dtype)
    pilot = Pilot.choose(x[n:], y[n:])
    assert pilot is not None
    return x[:n].to(DEVICE), y[:n].to(DEVICE), pilot.to(DEVICE)


def shifted(x: torch.Tensor, delta: torch.Tensor, pilot: Pilot) -> tuple[torch.Tensor, torch.Tensor]:
    return x.double() - pilot.center_x.double(), delta.double() - pilot.center_delta.double()


def products(x_hat: torch.Tensor, delta_hat: torch.Tensor) -> torch.Tensor:
    return torch.cat([x_hat.T @ x_hat, x_hat.T @ delta_hat], 1).double()


def error(got: torch.Tensor, x_hat: torch.Tensor, delta_hat: torch.Tensor, pilot: Pilot) -> float:
    """The larger relative Frobenius error of the two halves, of columns of unit length or the pilot's if longer."""
    n, d = x_hat.shape
    x_hat, delta_hat = x_hat.double(), delta_hat.double()
    length = n**0.5 / torch.cat([pilot.scale_x, pilot.scale_delta]).double()
    column = torch.maximum(torch.cat([x_hat, delta_hat], 1).norm(dim=0), length)
    row = column[:d, None]
    wrong, true = (got - products(x_hat, delta_hat)) / (row * column), products(x_hat, delta_hat) / (row * column)
    wrong[:, :d], true[:, :d] = wrong[:, :d].triu(), true[:, :d].triu()
    halves = zip(wrong.split(d, 1), true.split(d, 1), strict=True)
    return max((a.norm() / b.norm()).item() for a, b in halves)


def moments(x, y, delta, pilot, **options):
    d = x.shape[1]
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=DEVICE)
    sums = triton_backend.accumulate(x, y, delta, second, pilot=pilot, **{"launch": SMALL, **options})
    return second, sums


@pytest.mark.parametrize(("dtype", "precision"), PATHS)
@pytest.mark.parametrize(("n", "d"), [(1, 32), (77, 40), (300, 67), (100, 130)])
def test_second_moments_stay_in_the_error_budget(n, d, dtype, precision):
    x, y, pilot = hard(n, d, dtype)
    x_hat, delta_hat = shifted(x, y.double() - x.double(), pilot)
    second, _ = moments(x, y, None, pilot, precision=precision)
    if dtype is torch.float32 or precision == "exact":
        budget = max(FLOAT32_ERROR, 2 * error(products(x_hat.float(), delta_hat.float()), x_hat, delta_hat, pilot))
    else:
        budget = 2 * error(plain_16_bit(x, y, pilot), x_hat, delta_hat, pilot)
    assert error(second, x_hat, delta_hat, pilot) <= budget


def plain_16_bit(x: torch.Tensor, y: torch.Tensor, pilot: Pilot) -> torch.Tensor:
    """What torch does with 16-bit tensors: δ = y − x in their dtype, products summed in float32, then centring."""
    delta = y - x
    raw = products(x.float(), delta.float())
    center = torch.cat([pilot.center_x, pilot.center_delta]).double()
    sums = torch.cat([x, delta], 1).double().sum(0)
    d = x.shape[1]
    moved = center[:d, None] * sums + sums[:d, None] * center - len(x) * center[:d, None] * center
    return raw - moved


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_per_token_figures_match_their_definitions(dtype):
    x, y, pilot = hard(77, 67, dtype)
    x64, y64 = x.double(), y.double()
    stats = triton_backend.token_stats(x, y, None, pilot=pilot)
    ulp = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(y64.abs())))
    _, delta_hat = shifted(x, y64 - x64, pilot)
    true = {
        "norm_x": x64.norm(dim=1),
        "norm_y": y64.norm(dim=1),
        "norm_delta": (y64 - x64).norm(dim=1),
        "q_delta": delta_hat.square().sum(1),
        "rounding": ulp.square().sum(1) / 12,
    }
    for name, value in true.items():
        torch.testing.assert_close(getattr(stats, name).double(), value, rtol=2e-6, atol=0, msg=name)
    assert stats.status.dtype is torch.uint8
    assert (stats.status == LIGHT).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_over_light_rows_match_their_definitions(dtype):
    x, y, pilot = hard(150, 40, dtype)
    x64, y64 = x.double(), y.double()
    x_hat, delta_hat = shifted(x, y64 - x64, pilot)
    _, sums = moments(x, y, None, pilot)
    assert sums.n.item() == 150
    assert (sums.sum_x - x_hat.sum(0)).norm() <= 3e-7 * x_hat.abs().sum(0).norm()
    assert (sums.sum_delta - delta_hat.sum(0)).norm() <= 3e-7 * (y64.abs() + x64.abs()).sum(0).norm()
    cosine = (x64 * y64).sum(1) / (x64.norm(dim=1) * y64.norm(dim=1))
    scalars = dict(zip(SCALARS, sums.scalars.tolist(), strict=True))
    assert scalars["block_influence"] == pytest.approx((1 - cosine).sum().item(), rel=1e-5)
    assert scalars["q_delta"] == pytest.approx(delta_hat.square().sum().item(), rel=1e-6)


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
    second, sums = moments(x, y, None, pilot, precision=precision)
    expected = torch.full((100,), LIGHT, dtype=torch.uint8, device=DEVICE)
    expected[[3, 50, 11]], expected[[7, 9]] = HEAVY, NONFINITE
    assert torch.equal(sums.status, expected)
    light = (expected == LIGHT).nonzero()[:, 0]
    alone, sums_alone = moments(x, y, None, pilot, precision=precision, rows=light)
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
        second, sums = moments(x, y, None, pilot, precision=precision)
        assert sums.status.nonzero()[:, 0].tolist() == [5]
        assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_picked_rows_strides_and_padding_change_nothing(dtype):
    x, y, pilot = hard(200, 40, dtype)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:90].to(DEVICE)
    second, sums = moments(x[rows], y[rows], None, pilot)
    transposed = x.T.contiguous().T
    sliced = torch.cat([y, y], 1)[:, ::2].new_zeros(200, 80)
    sliced[:, ::2] = y
    again, sums_again = moments(transposed, sliced[:, ::2], None, pilot, rows=rows)
    assert torch.equal(second, again)
    assert all(torch.equal(a, b) for a, b in zip(sums, sums_again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_given_delta_is_taken_as_it_is(dtype):
    x, y, pilot = hard(90, 40, dtype)
    delta = (y.float() - x.float()).to(dtype)
    second, sums = moments(x, None, delta, pilot, precision="exact")
    assert error(second, *shifted(x, delta, pilot), pilot) <= 2 * FLOAT32_ERROR
    ulp = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(delta.double().abs())))
    ulp = torch.where(delta == 0, 0.0, ulp)
    assert sums.scalars[SCALARS.index("rounding")].item() == pytest.approx(ulp.square().sum().item() / 12, rel=1e-5)
    norm_y = (x.double() + delta.double()).norm(dim=1).sum().item()
    assert sums.scalars[SCALARS.index("norm_y")].item() == pytest.approx(norm_y, rel=1e-6)


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_sign_minus_one_takes_rows_out_again_and_leaves_what_was_there(precision):
    x, y, pilot = hard(60, 32, torch.float16)
    start = torch.randn(32, 64, dtype=torch.float64, device=DEVICE)
    second = start.clone()
    for sign in (1, -1):
        triton_backend.accumulate(x, y, None, second, pilot=pilot, precision=precision, sign=sign, launch=SMALL)
    torch.testing.assert_close(second, start, rtol=0, atol=1e-8)
    assert torch.equal(second[:, :32].tril(-1), start[:, :32].tril(-1))


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_splitting_flushing_halves_and_descriptors_agree(precision, descriptors):
    x, y, pilot = hard(300, 67, torch.bfloat16)
    plain, _ = moments(x, y, None, pilot, precision=precision)
    launch = GramLaunch(64, 64, 64, warps=4, stages=2, descriptors=descriptors, halves=True, flush=128)
    other, _ = moments(x, y, None, pilot, precision=precision, launch=launch, splits=2)
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_a_feature_that_moves_in_steps_makes_no_row_heavy():
    x, y, _ = hard(100, 32, torch.bfloat16)
    y[:, 0] = x[:, 0]
    y[::7, 0] *= 1.0078125  # one bf16 step in every seventh row: the median deviation of δ is 0
    pilot = Pilot.choose(x, y)
    assert pilot is not None
    _, sums = moments(x, y, None, pilot, precision="exact")
    assert (sums.status == LIGHT).all()


def test_the_same_call_gives_the_same_bits():
    x, y, pilot = hard(200, 67, torch.bfloat16)
    (one, sums), (two, sums_two) = (moments(x, y, None, pilot, splits=2) for _ in range(2))
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(sums, sums_two, strict=True))


def test_chunks_add_up(monkeypatch):
    monkeypatch.setattr(triton_backend, "OPERAND_BYTES", 1)
    monkeypatch.setattr(triton_backend, "LEAST_CHUNK", 64)
    x, y, pilot = hard(150, 32, torch.bfloat16)
    second, sums = moments(x, y, None, pilot, precision="exact", rows=torch.arange(150, device=DEVICE))
    assert error(second, *shifted(x, y.double() - x.double(), pilot), pilot) <= 2 * FLOAT32_ERROR
    assert sums.n.item() == 150
    assert len(sums.status) == 150


def test_wide_rows_are_shared_by_programs_that_agree(monkeypatch):
    from linscore_kernels import token_stats

    x, y, pilot = hard(20, 130, torch.bfloat16)
    whole = triton_backend.token_stats(x, y, None, pilot=pilot)
    monkeypatch.setattr(token_stats, "WIDEST", 64)
    shared = triton_backend.token_stats(x, y, None, pilot=pilot)
    assert torch.equal(whole.x[0], shared.x[0])
    assert torch.equal(whole.delta[0], shared.delta[0])
    torch.testing.assert_close(whole.sum_delta, shared.sum_delta)
    torch.testing.assert_close(whole.q_delta, shared.q_delta)


def test_gram_adds_the_products_of_the_operands_as_they_are():
    x, y, pilot = hard(90, 40, torch.bfloat16)
    unscaled = replace(pilot, scale_x=torch.full((40,), 1e9), scale_delta=torch.full((40,), 1e9)).to(DEVICE)
    for precision in ("fast", "exact"):
        stats = triton_backend.token_stats(x, y, None, pilot=pilot, precision=precision)
        out = torch.zeros(40, 80, device=DEVICE)
        triton_backend.gram(stats, out)
        triton_backend.gram(stats, out)
        operands = [torch.stack(parts).double().sum(0) for parts in (stats.x, stats.delta)]
        assert error(out.double() / 2, *operands, unscaled) <= 1e-6


def test_the_tile_list_covers_the_triangle_once():
    for d, block_m, block_n in ((130, 32, 64), (300, 128, 64), (67, 64, 64)):
        tiles = tile_list(d, block_m, block_n, torch.device("cpu")).tolist()
        covered = torch.zeros(d + block_m, 2 * (d + block_n), dtype=torch.int32)
        half = -(-d // block_n)
        for i, j in tiles:
            column = (j % half) * block_n
            covered[i * block_m : (i + 1) * block_m, column + (j >= half) * d :][:, : min(block_n, d - column)] += 1
        covered = covered[:d, : 2 * d]
        assert (covered[:, d:] == 1).all()
        assert (covered[:, :d].triu() == torch.ones(d, d, dtype=torch.int32).triu()).all()
        assert covered.max() == 1


def test_splits_fill_the_device_only_where_tiles_do_not():
    assert splits_for(8192, tiles=784, programs=132) == 1
    assert splits_for(16384, tiles=24, programs=132) >= 5
    assert splits_for(65536, tiles=784, programs=132) >= 4  # no accumulator takes more than 16,384 tokens
    assert splits_for(128, tiles=1, programs=132) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": torch.zeros(8, 32)}, "either y or delta"),
        ({"y": torch.zeros(8, 16)}, r"both must be \[n, d\]"),
        ({"x": torch.zeros(8, 32, dtype=torch.float64)}, "convert it"),
        ({"rows": torch.zeros(3, dtype=torch.int32)}, "int64 indices"),
        ({"precision": "exakt"}, '"fast" or "exact"'),
        ({"second": torch.zeros(32, 64)}, "float64"),
        ({"x": torch.zeros(0, 32), "y": torch.zeros(0, 32)}, "no rows"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_advice(change, message):
    x = torch.randn(8, 32)
    arguments = {"x": x, "y": x + 1, "delta": None, "second": torch.zeros(32, 64, dtype=torch.float64)}
    options = {"pilot": Pilot.choose(x, x + 1)}
    call = arguments | options | change
    with pytest.raises(ValueError, match=message):
        triton_backend.accumulate(call.pop("x"), call.pop("y"), call.pop("delta"), call.pop("second"), **call)
