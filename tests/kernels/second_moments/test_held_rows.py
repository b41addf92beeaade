"""Heavy rows that are set aside, against float64 formulas: found in order, whole, and zeros where there are fewer."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from kernel_oracles import DEVICE, hard, shifted
from linscore_kernels import Pilot
from linscore_kernels.second_moments import heavy_rows_kernel, held_rows
from linscore_kernels.sums import FIGURES, HEAVY, LIGHT, NONFINITE, SCALARS

N, D, E = 200, 67, 40


@pytest.fixture(autouse=True)
def _few_are_held(monkeypatch):
    """The interpreter takes its time for each row that may be held."""
    monkeypatch.setattr(held_rows, "LEAST", 7)


def given(dtype=torch.float32, heavy=(3, 64, 65, 130, 199), e=D):
    """States, their status, and x̂ and δ̂ of the heavy ones in float64; rows that are not finite lie between."""
    x, y, pilot = hard(N, D, dtype)
    delta = (y - x)[:, :e]
    if e < D:
        pilot = Pilot.of(pilot.centers[: D + e], pilot.scales[: D + e], D, pilot.limit_x, pilot.limit_delta)
    status = torch.full((N,), LIGHT, dtype=torch.uint8, device=DEVICE)
    status[list(heavy)], status[[1, 66]] = HEAVY, NONFINITE
    return x, y, delta, status, pilot


def by_definition(x, y, pilot, delta=None):
    """x̂ and δ̂ `[2, k, D]`, and the five figures."""
    x = x.double()
    delta = y.double() - x if delta is None else delta.double()
    y = x + torch.nn.functional.pad(delta, (0, D - delta.shape[1])) if y is None else y.double()
    x_hat, delta_hat = shifted(x, delta, pilot)
    operands = torch.stack([x_hat, torch.nn.functional.pad(delta_hat, (0, D - delta_hat.shape[1]))])
    return operands, [x.norm(dim=1), y.norm(dim=1), delta.norm(dim=1), delta_hat.square().sum(1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_first_heavy_rows_are_held_in_order(monkeypatch, dtype):
    monkeypatch.setattr(heavy_rows_kernel, "SCAN", 64)
    monkeypatch.setattr(heavy_rows_kernel, "WIDEST", 32)
    x, y, _, status, pilot = given(dtype)
    held = held_rows.hold(x, y, status, pilot=pilot, rows=None, delta_given=False, sign=1)
    assert held.room == held_rows.LEAST
    assert held.found.tolist() == [LIGHT] * 5 + [3] * (held.room - 5)
    operands, figures = by_definition(x[status == HEAVY], y[status == HEAVY], pilot)
    torch.testing.assert_close(held.operands[:, :5], operands, rtol=0, atol=0)
    assert not held.operands[:, 5:].any()
    torch.testing.assert_close(held.figures[:4, :5], torch.stack(figures), rtol=1e-14, atol=0)
    ulp = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(y[status == HEAVY].double().abs())))
    torch.testing.assert_close(held.figures[FIGURES.index("rounding"), :5], ulp.square().sum(1) / 12, rtol=1e-6, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("e", [D, E])
def test_what_is_held_is_added_once_it_is_counted(sign, e):
    x, _, delta, status, pilot = given(e=e)
    rows = torch.arange(N - 1, -1, -1, device=DEVICE)  # back to front: the status is that of the picked rows
    held = held_rows.hold(x, delta, status.flip(0), pilot=pilot, rows=rows, delta_given=True, sign=sign)
    second = torch.ones(D, D + e, dtype=torch.float64, device=DEVICE)
    sums = held.add_to(second, 5)
    heavy = status == HEAVY
    (x_hat, delta_hat), figures = by_definition(x[heavy], None, pilot, delta[heavy])
    products = torch.cat([x_hat.T @ x_hat, x_hat.T @ delta_hat[:, :e]], 1)
    torch.testing.assert_close(second, 1 + sign * products, rtol=1e-13, atol=1e-9)
    torch.testing.assert_close(sums.sum_x, x_hat.sum(0), rtol=1e-13, atol=1e-9)
    torch.testing.assert_close(sums.sum_delta, delta_hat.sum(0)[:e], rtol=1e-13, atol=1e-9)
    norms = [float(figure.sum()) for figure in figures]
    found = [float(sums.scalars[SCALARS.index(name)]) for name in ("norm_x", "norm_y", "norm_delta", "q_delta")]
    assert found == pytest.approx(norms, rel=1e-13)
    assert float(sums.n) == 5


def test_one_in_so_many_rows_is_held(monkeypatch):
    monkeypatch.setattr(held_rows, "LEAST", 2)
    x, y, _, status, pilot = given(heavy=range(0, N, 2))
    held = held_rows.hold(x, y, status, pilot=pilot, rows=None, delta_given=False, sign=1)
    assert held.room == N // held_rows.SHARE == 3
    operands, _ = by_definition(x[[0, 2, 4]], y[[0, 2, 4]], pilot)
    torch.testing.assert_close(held.operands, operands, rtol=0, atol=0)
