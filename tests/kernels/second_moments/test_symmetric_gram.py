"""xᵀx against float64 products, its gradient against torch's."""

import pytest
import torch
from linscore_kernels import LinscoreError, has_triton, symmetric_gram
from linscore_kernels.second_moments.torch_products import torch_partials
from torch.library import opcheck

BACKENDS = ["eager", pytest.param("triton", marks=pytest.mark.skipif(not has_triton(), reason="no triton"))]
DTYPES = {torch.float32: 1e-6, torch.float16: 1e-6, torch.bfloat16: 1e-6, torch.float64: 1e-14}


def rows(n: int, d: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(n)) + 0.5).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(77, 67), (1, 20), (200, 128)])
def test_it_is_the_product_in_float64(n, d, dtype, backend):
    x = rows(n, d, dtype)
    for given in (x, x.T.contiguous().T, rows(n, 3 * d, dtype)[:, d : 2 * d]):
        got, oracle = symmetric_gram(given, backend=backend), given.double().T @ given.double()
        assert got.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        assert torch.equal(got, got.T)
        assert (got - oracle).abs().max() <= DTYPES[dtype] * oracle.abs().max()


def test_rows_of_several_chunks_count_once():
    x = rows(8192 + 2048 + 5, 8)
    torch.testing.assert_close(symmetric_gram(x).double(), x.double().T @ x.double(), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_seen(backend):
    x = rows(64, 32, torch.bfloat16)
    x[3, 5] = float("nan")
    got = symmetric_gram(x, backend=backend)
    assert got[5].isnan().all()
    assert not got[6:, 6:].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_its_gradient_is_that_of_the_product(dtype):
    x = rows(9, 5, dtype).requires_grad_()
    weight = rows(5, 5, torch.float64)
    (symmetric_gram(x) * weight).sum().backward()
    other = x.detach().double().requires_grad_()
    ((other.T @ other) * weight).sum().backward()
    assert x.grad.dtype is dtype
    torch.testing.assert_close(x.grad.double(), other.grad, rtol=torch.finfo(dtype).eps * 4, atol=1e-6)


@pytest.mark.slow
def test_torch_finds_the_operator_sound():
    opcheck(torch.ops.linscore.symmetric_gram, (rows(9, 5).requires_grad_(), "eager"))


def test_torchs_own_products_of_x_alone_are_those_of_the_kernel():
    x = rows(64, 48, torch.bfloat16)
    torch.testing.assert_close(torch_partials(x[None], 48, width_delta=0).sum(0), (x.float().T @ x.float()))


@pytest.mark.parametrize("x", [torch.zeros(3), torch.zeros(0, 2), torch.zeros(3, 2, dtype=torch.int64), [[1.0]]])
def test_what_is_no_rows_of_floats_is_refused(x):
    with pytest.raises(LinscoreError, match=r"`x` is (\[|of type list)"):
        symmetric_gram(x)
