import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linscore_kernels import HEAVY, LIGHT, NONFINITE, SCALARS
from oracles import states

import linscore
from linscore.statistics import figures as metrics
from linscore.statistics.cell import Cell
from linscore.statistics.centered import Centered
from linscore.statistics.figures import block_metrics
from linscore.statistics.moments import Moments


def centered(moments: Moments) -> Centered:
    return metrics.centered(moments, range(moments.folds))


@pytest.mark.parametrize(("precision", "bound"), [("fast", 3e-6), ("exact", 1e-13)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_moments_equal_float64_covariances(precision, bound, dtype):
    x, y = (t.to(dtype) for t in states(3000, 37))
    moments = Moments(37, precision=precision)
    moments.update(x, y)
    got = centered(moments)
    x, delta = x.double(), y.double() - x.double()
    x_c, delta_c = x - x.mean(0), delta - delta.mean(0)
    for mine, oracle in (
        (got.c_xx, x_c.T @ x_c),
        (got.c_xd, x_c.T @ delta_c),
        (got.mean_x, x.mean(0)),
        (got.mean_delta, delta.mean(0)),
        (x.new_tensor(got.t_delta), delta_c.square().sum()),
        (x.new_tensor(got.t_y), (x_c + delta_c).square().sum()),
    ):
        assert (mine - oracle).norm() <= bound * oracle.norm()


def test_float64_tensors_stay_exact_at_any_precision():
    x, y = (t.double() for t in states(500, 20))
    x += 1e-9 * torch.randn(500, 20, dtype=torch.float64)
    moments = Moments(20)
    moments.update(x, y)
    x_c = x - x.mean(0)
    assert (centered(moments).c_xx - x_c.T @ x_c).norm() <= 1e-13 * (x_c.T @ x_c).norm()


def test_per_token_figures_equal_their_definitions():
    x, y = states(700, 24)
    moments = Moments(24)
    moments.update(x, y)
    cell = moments.total()
    x, y = x.double(), y.double()
    cosine = torch.cosine_similarity(x, y)
    expected = {
        "block_influence": (1 - cosine).mean(),
        "angular_distance": (torch.arccos(cosine) / torch.pi).mean(),
        "delta_ratio": ((y - x).norm(dim=1) / x.norm(dim=1)).mean(),
        "norm_x": x.norm(dim=1).mean(),
        "norm_y": y.norm(dim=1).mean(),
        "norm_delta": (y - x).norm(dim=1).mean(),
    }
    for name, value in expected.items():
        assert cell.mean(name) == pytest.approx(value.item(), rel=1e-6), name


def test_block_influence_keeps_its_digits_where_y_is_almost_x():
    x, _ = states(400, 64)
    y = x + 1e-4 * torch.randn(400, 64, generator=torch.Generator().manual_seed(1))
    moments = Moments(64)
    moments.update(x, y)
    expected = (1 - torch.cosine_similarity(x.double(), y.double())).mean().item()
    assert moments.total().mean("block_influence") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 7), (torch.float16, 10)])
def test_rounding_is_the_twelfth_of_the_squared_ulp_of_y(dtype, bits):
    x, y = (t.to(dtype) for t in states(100, 16))
    moments = Moments(16)
    moments.update(x, y)
    ulp = 2.0 ** (y.double().abs().log2().floor() - bits)
    assert moments.total().mean("rounding") == pytest.approx((ulp.square().sum(1) / 12).mean().item(), rel=1e-5)


def test_a_given_delta_is_taken_as_it_is():
    x, _ = states(300, 12)
    delta = torch.randn(300, 12, generator=torch.Generator().manual_seed(2))
    moments = Moments(12, precision="exact")
    moments.update(x, delta=delta)
    x_c, delta_c = x.double() - x.double().mean(0), delta.double() - delta.double().mean(0)
    torch.testing.assert_close(centered(moments).c_xd, x_c.T @ delta_c)


def test_picked_rows_equal_the_rows_given_apart():
    x, y = states(5000, 16)
    rows = torch.arange(0, 5000, 3)
    picked, apart = Moments(16), Moments(16)
    picked.update(x, y, rows=rows)
    apart.update(x[rows], y[rows])
    torch.testing.assert_close(centered(picked).c_xd, centered(apart).c_xd, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_merging_two_halves_equals_one_run(precision):
    x, y = states(4000, 24)
    x, y = x + 5, y + 5  # halves with centres of their own
    x[2000:] += 0.2
    y[2000:] += 0.2
    one, first, second = (Moments(24, folds=2, precision=precision) for _ in range(3))
    for moments, start, stop in ((one, 0, 2000), (one, 2000, 4000), (first, 0, 2000), (second, 2000, 4000)):
        moments.update(x[start:stop], y[start:stop], fold=start // 2000)
    merged, whole = block_metrics(first.merge(second)), block_metrics(one)
    bound = 1e-5 if precision == "fast" else 1e-10
    for name, value in vars(whole).items():
        if isinstance(value, float):
            assert getattr(merged, name) == pytest.approx(value, rel=bound, abs=bound), name


def test_merging_exact_halves_is_associative_with_a_third():
    parts = []
    for seed in range(3):
        x, y = states(300, 8, seed)
        parts.append(Moments(8, precision="exact"))
        parts[-1].update(x + seed, y + seed)

    def copy(moments: Moments) -> Moments:
        return Moments(8, precision="exact").merge(moments)

    left = copy(parts[0]).merge(parts[1]).merge(parts[2])
    right = copy(parts[0]).merge(copy(parts[1]).merge(parts[2]))
    torch.testing.assert_close(centered(left).c_xx, centered(right).c_xx, rtol=1e-12, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.floats(-50, 50), st.floats(-50, 50))
def test_moving_the_origin_equals_summing_about_it(n, a, b):
    generator = torch.Generator().manual_seed(n)
    x, delta = torch.randn(2, n, 3, dtype=torch.float64, generator=generator)

    def cell(x: torch.Tensor, delta: torch.Tensor) -> Cell:
        scalars = torch.zeros(len(SCALARS), dtype=torch.float64)
        scalars[SCALARS.index("q_delta")] = delta.square().sum()
        second = torch.cat([x.T @ x, x.T @ delta], 1)
        return Cell(torch.tensor(float(n), dtype=torch.float64), x.sum(0), delta.sum(0), second, scalars)

    shift_x, shift_delta = torch.tensor([a, 0.0, 1.0]).double(), torch.tensor([b, -1.0, 0.0]).double()
    moved, direct = cell(x, delta).moved_origin(shift_x, shift_delta), cell(x + shift_x, delta + shift_delta)
    for name, value in vars(direct).items():
        torch.testing.assert_close(getattr(moved, name), value, rtol=1e-9, atol=1e-9)


def test_heavy_rows_are_summed_apart_and_lose_no_digit():
    x, y = states(4000, 32)
    heavy = torch.tensor([3, 500, 501, 3999])
    x[heavy] *= 800
    y[heavy] = x[heavy] + (y - x)[heavy] / 800
    moments = Moments(32)
    status = moments.update(x, y)
    assert status[heavy].eq(HEAVY).all()
    assert status.eq(HEAVY).sum() == moments.heavy_rows == 4
    light = torch.ones(4000, dtype=torch.bool)
    light[heavy] = False
    for with_heavy, rows in ((True, slice(None)), (False, light)):
        x_c = x[rows].double() - x[rows].double().mean(0)
        got = metrics.centered(moments, [0], heavy=with_heavy)
        assert (got.c_xx - x_c.T @ x_c).norm() <= 1e-7 * (x_c.T @ x_c).norm()


def test_a_row_with_a_heavy_delta_is_heavy_too():
    x, y = states(1000, 16)
    y[7] += 1000
    moments = Moments(16)
    assert moments.update(x, y)[7] == HEAVY


def test_rows_that_are_not_finite_are_left_out_and_named():
    x, y = states(300, 8)
    clean = Moments(8)
    clean.update(x[2:], y[2:])
    x[0, 3], y[1, 5] = float("nan"), float("inf")
    moments = Moments(8)
    status = moments.update(x, y)
    assert status.tolist() == [NONFINITE, NONFINITE] + [LIGHT] * 298
    torch.testing.assert_close(centered(moments).c_xx, centered(clean).c_xx, rtol=1e-6, atol=1e-5)


def test_a_finite_row_too_large_for_float32_squares_is_heavy_not_lost():
    x, y = states(300, 8)
    x[5], y[5] = 1e25, 1e25
    assert Moments(8).update(x, y)[5] == HEAVY


def test_rows_taken_back_leave_what_was_there_without_them():
    x, y = states(600, 16)
    moments, alone = Moments(16), Moments(16)
    for m in (moments, alone):
        m.update(x[:500], y[:500])
    moments.update(x[500:], y[500:])
    moments.update(x[500:], y[500:], sign=-1)
    torch.testing.assert_close(centered(moments).c_xd, centered(alone).c_xd, rtol=1e-6, atol=1e-5)
    assert moments.total().n == 500


def test_nothing_changes_without_rows():
    moments = Moments(4)
    assert moments.update(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    assert moments.pilot is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Moments(0), "`d` is 0: give 1 or more"),
        (lambda: Moments(4, folds=0), "`folds` is 0: give 1 or more"),
        (lambda: Moments(4, folds=10**8), "give 10,000 or less"),
        (lambda: Moments(4, folds=1.5), "give a whole number"),
        (lambda: Moments("4"), "give a whole number"),
        (lambda: Moments(4, precision="double"), "fast, exact"),
        (lambda: Moments(4, backend="cuda"), "choose auto"),
        (lambda: Moments(4).update(torch.zeros(3, 5), torch.zeros(3, 5)), r"`x` \[\.\.\., 4\]"),
        (lambda: Moments(4).update(torch.zeros(3, 4), torch.zeros(2, 4)), "of one shape"),
        (lambda: Moments(4).update(torch.zeros(3, 4)), "either `y` or `delta`"),
        (lambda: Moments(4).update(torch.zeros(3, 4), torch.zeros(3, 4), fold=1), "fold 1"),
        (lambda: Moments(4).update(torch.zeros(3, 4), torch.zeros(3, 4), fold=0.5), "`fold` is 0.5"),
        (lambda: Moments(4).update([[0.0] * 4], torch.zeros(1, 4)), "`x` is of type list: give a tensor"),
        (lambda: Moments(4).update(torch.zeros(3, 4), torch.zeros(3, 4), rows=[1, 2]), "`rows` is of type list"),
        (lambda: Moments(4).update(torch.zeros(3, 4), torch.zeros(3, 4), rows=torch.tensor([3])), "from 0 to 2"),
        (lambda: Moments(4).update(torch.zeros(3, 4), torch.zeros(3, 4), rows=torch.ones(3)), "int64"),
        (lambda: linscore.fit_block_map({"block.0": Moments(4)}), "give those of one block"),
        (lambda: Moments(4).merge(Moments(5)), "width 5"),
        (lambda: Moments(4).merge(Moments(4, folds=2)), "2 folds"),
    ],
)
def test_what_cannot_be_is_refused_with_a_line(call, message):
    with pytest.raises(linscore.LinscoreError, match=message):
        call()
