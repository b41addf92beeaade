"""Residual norms as an operator, and against the error of the map, whatever the backend."""

import pytest
import torch
from linscore_kernels import LinscoreError, has_triton, residual_norms
from oracles import states
from torch.library import opcheck

BACKENDS = ["eager", pytest.param("triton", marks=pytest.mark.skipif(not has_triton(), reason="no triton"))]
PRECISIONS = ["fast", "exact"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [None, torch.tensor([3, 1, 8])])
def test_schema_and_fake_are_what_torch_asks_for(backend, precision, rows):
    x, y = states(40, 32)
    opcheck(torch.ops.linscore.residual_norms, (x, y, rows, torch.eye(32), x[0], y[0], False, precision, backend))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("delta_given", [False, True])
@pytest.mark.parametrize("rows", [None, torch.tensor([5, 2, 2999])])
def test_residual_norms_are_those_of_the_error_of_the_map(precision, delta_given, rows):
    x, y = states(3000, 70)
    b, mean_x, mean_delta = 0.1 * states(70, 70)[0], x.mean(0), (y - x).mean(0)
    delta = y.double() - x.double()
    other = {"delta": delta.float()} if delta_given else {"y": y}
    got = residual_norms(x, **other, b=b, mean_x=mean_x, mean_delta=mean_delta, rows=rows, precision=precision)
    expected = (delta - (x - mean_x).double() @ b.double() - mean_delta.double()).norm(dim=1)
    expected = expected if rows is None else expected[rows]
    assert got.dtype is (torch.float32 if precision == "fast" else torch.float64)
    torch.testing.assert_close(
        got.double(), expected, rtol=1e-5 if precision == "fast" or delta_given else 1e-7, atol=0
    )


X = torch.ones(8, 32)


def test_residual_norms_need_a_map_as_wide_as_x():
    with pytest.raises(LinscoreError, match=r"give \[32, 32\]"):
        residual_norms(X, X, b=torch.zeros(32, 1), mean_x=torch.zeros(32), mean_delta=torch.zeros(1))


def test_residual_norms_take_either_y_or_delta():
    fitted = {"b": torch.eye(32), "mean_x": torch.zeros(32), "mean_delta": torch.zeros(32)}
    for others in ({}, {"y": X, "delta": X}):
        with pytest.raises(LinscoreError, match="either `y` or `delta`"):
            residual_norms(X, **others, **fitted)
