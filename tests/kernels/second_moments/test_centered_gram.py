"""Centred Gram matrices of two sets of features against float64 covariances."""

import pytest
import torch
from linscore_kernels import LinscoreError, centered_gram
from oracles import states


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
        (torch.zeros(3), torch.zeros(3), r"\[\.\.\., d\]"),
        (torch.zeros(3, 2), torch.zeros(3, 4), "of one shape"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "a row that counts"),
        (torch.zeros(3, 2), torch.tensor([[1, 2], [float("nan"), 0], [0, 0]]), "NaN"),
        (torch.full((3, 2), float("inf")), torch.zeros(3, 2), "finite"),
    ],
)
def test_centered_gram_refuses_what_has_no_answer(x, y, message):
    with pytest.raises(LinscoreError, match=message):
        centered_gram(x, y)
