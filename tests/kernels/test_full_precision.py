"""The caller's settings of precision are for the caller's own products."""

import pytest
import torch
from linscore_kernels import residual_norms
from linscore_kernels.full_precision import full_precision
from oracles import states

import linscore
from linscore.regularization.batch_linearity import batch_linearity

SETTINGS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


@pytest.fixture
def _lowered():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


X, Y = states(600, 32)
FITTED = {"b": 0.1 * states(32, 32)[0], "mean_x": X.mean(0), "mean_delta": X.mean(0)}


def products():
    moments = linscore.Moments(32)
    moments.update(X, Y)
    gram = linscore.centered_gram(X, Y)
    return [moments.light[0].second, moments.light[0].scalars, residual_norms(X, Y, **FITTED), gram.c_xx, gram.c_xy]


def test_autocast_does_not_reach_our_products():
    expected = products()
    with torch.autocast("cpu", torch.bfloat16):
        got = products()
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    x, b = X.double(), FITTED["b"].double()
    missed = (Y.double() - x - (x - x.mean(0)) @ b - x.mean(0)).norm(dim=1)
    torch.testing.assert_close(got[2].double(), missed, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("_lowered")
def test_lower_precision_does_not_reach_our_products_and_is_given_back(monkeypatch):
    seen = []
    plain = torch.Tensor.baddbmm_

    def spy(*args, **kwargs):
        seen.append([one.fp32_precision for one in SETTINGS])
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "baddbmm_", spy)
    asked = [one.fp32_precision for one in SETTINGS]
    assert asked == ["tf32", "bf16"]
    products()
    assert seen
    assert all(one == ["ieee", "ieee"] for one in seen)
    assert [one.fp32_precision for one in SETTINGS] == asked
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("_lowered")
def test_settings_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), full_precision(torch.device("cpu")):
        _ = 1 / 0
    assert [one.fp32_precision for one in SETTINGS] == ["tf32", "bf16"]


@pytest.mark.usefixtures("_lowered")
def test_a_loss_of_linearity_is_the_same_under_autocast():
    x, y = states(300, 8)
    expected = batch_linearity(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(batch_linearity(x, y), expected)
