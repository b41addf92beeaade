import pytest
import torch
from linscore_kernels import LIGHT, Pilot, accumulate, centered_gram, choose_backend
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


def test_the_pilot_is_the_median_of_the_leading_finite_rows_whatever_follows():
    x, y = states(1000, 12)
    x[0] = float("nan")
    pilot = Pilot.choose(x, y)
    torch.testing.assert_close(pilot.center_x, x[1:257].median(0).values)
    longer = Pilot.choose(x[:400], y[:400])
    assert torch.equal(pilot.center_delta, longer.center_delta)
    assert Pilot.choose(x[:1], y[:1]) is None


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("precision", "bound"), [("fast", 1e-6), ("exact", 1e-12)])
def test_centered_gram_equals_the_covariances(normalize, precision, bound):
    x, y = states(3000, 40)
    x, y = x + 10, 3 * y - 5
    y[17] *= 900  # a heavy row is a row all the same
    got = centered_gram(x, y, normalize=normalize, precision=precision)
    x_c, y_c = (t.double() - t.double().mean(0) for t in (x, y))
    if normalize:
        x_c, y_c = x_c / x_c.norm(), y_c / y_c.norm()
    for mine, oracle in ((got.c_xx, x_c.T @ x_c), (got.c_xy, x_c.T @ y_c)):
        assert (mine - oracle).norm() <= bound * oracle.norm()
    assert got.n == 3000
    assert got.t_y == pytest.approx((y.double() - y.double().mean(0)).square().sum().item(), rel=bound)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"\[n, d\]"),
        (torch.zeros(3, 2), torch.zeros(3, 4), r"\[n, d\]"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "n ≥ 1"),
        (torch.zeros(3, 2), torch.tensor([[1, 2], [float("nan"), 0], [0, 0]]), "NaN"),
        (torch.full((3, 2), float("inf")), torch.zeros(3, 2), "finite"),
    ],
)
def test_centered_gram_refuses_what_has_no_answer(x, y, message):
    with pytest.raises(ValueError, match=message):
        centered_gram(x, y)


def test_the_backend_follows_the_device_the_argument_and_the_environment(monkeypatch):
    monkeypatch.delenv("LINSCORE_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_backend("cpu") == "eager"
    assert choose_backend("cuda") == "triton"
    assert choose_backend("cuda", "eager") == "eager"
    monkeypatch.setenv("LINSCORE_BACKEND", "eager")
    assert choose_backend("cuda") == "eager"
    monkeypatch.setenv("LINSCORE_BACKEND", "triton")
    with pytest.raises(ValueError, match="CUDA tensors"):
        choose_backend("cpu")
    with pytest.raises(ValueError, match="choose auto"):
        choose_backend("cpu", "cudnn")
