"""The eager backend against float64 formulas: shapes, strides, signs."""

import pytest
import torch
from linscore_kernels import LIGHT, Pilot, accumulate
from oracles import states


def products(x: torch.Tensor, delta: torch.Tensor, pilot: Pilot) -> torch.Tensor:
    x_hat, delta_hat = x.double() - pilot.center_x.double(), delta.double() - pilot.center_delta.double()
    return torch.cat([(x_hat.T @ x_hat).triu(), x_hat.T @ delta_hat], 1)


def products_in(dtype: torch.dtype, x: torch.Tensor, y: torch.Tensor, pilot: Pilot) -> torch.Tensor:
    x_hat, delta_hat = x.to(dtype) - pilot.center_x, y.to(dtype) - x.to(dtype) - pilot.center_delta
    return torch.cat([(x_hat.T @ x_hat).triu(), x_hat.T @ delta_hat], 1).double()


def upper(second: torch.Tensor) -> torch.Tensor:
    d = len(second)
    return torch.cat([second[:, :d].triu(), second[:, d:]], 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "d"), [(1, 5), (77, 32), (2048, 97), (9001, 130), (3000, 768), (2100, 1024)])
def test_gram_of_ragged_shapes_equals_float64(dtype, n, d):
    x, y = (t.to(dtype) for t in states(n, d))
    pilot = Pilot.choose(x, y).without_limits()
    second = torch.zeros(d, 2 * d, dtype=torch.float64)
    sums = accumulate(x, y, None, second, pilot=pilot)
    delta = y.double() - x.double()
    expected = products(x, delta, pilot)
    # At most twice the error of the plain float32 expression, and a rounding.
    plain = products_in(torch.float32, x, y, pilot)
    budget = 2 * (plain - expected).norm() + 6e-8 * expected.norm()
    assert (upper(second) - expected).norm() <= budget
    assert sums.n == n
    torch.testing.assert_close(sums.sum_x, (x.double() - pilot.center_x).sum(0), rtol=1e-5, atol=1e-3)
    assert sums.status.eq(LIGHT).all()


def test_rows_that_are_not_contiguous_are_read_in_place():
    x, y = states(300, 64)
    wide = torch.cat([x, y], 1)
    pilot = Pilot.choose(x, y)
    one, two = torch.zeros(2, 64, 128, dtype=torch.float64)
    accumulate(wide[:, :64], wide[:, 64:], None, one, pilot=pilot)
    accumulate(x, y, None, two, pilot=pilot)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_accumulating_adds_and_a_negative_sign_takes_away():
    x, y = states(500, 16)
    pilot = Pilot.choose(x, y)
    second = torch.full((16, 32), 3.0, dtype=torch.float64)
    accumulate(x, y, None, second, pilot=pilot)
    accumulate(x, y, None, second, pilot=pilot, sign=-1)
    torch.testing.assert_close(second, torch.full((16, 32), 3.0, dtype=torch.float64))


def test_two_runs_are_bitwise_equal():
    x, y = states(5000, 50)
    pilot = Pilot.choose(x, y)
    one, two = torch.zeros(2, 50, 100, dtype=torch.float64)
    accumulate(x, y, None, one, pilot=pilot)
    accumulate(x, y, None, two, pilot=pilot)
    assert torch.equal(one, two)
