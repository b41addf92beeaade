"""A map as a module and as a function, against the formula in NumPy, and against the block that it would be."""

import numpy as np
import pytest
import torch
from oracles import states
from torch import nn

import linscore
from linscore import LinscoreError, Moments
from linscore.models.linear_block import LinearBlock
from linscore.statistics.maps import fit
from linscore.statistics.ridge import Regression

D = 12
KINDS = [{}, {"rank": 3}, {"kind": "diagonal"}, {"kind": "mean"}, {"ridge": 0.1}]


def fitted(**options) -> linscore.FittedMap:
    moments = Moments(D)
    moments.update(*(one.double() for one in states(200, D)))
    return linscore.fit_block_map(moments, **options)


def formula(one: linscore.FittedMap, x: torch.Tensor) -> np.ndarray:
    b, mean_x, mean_delta = one.b.numpy(), one.mean_x.numpy(), one.mean_delta.numpy()
    x = x.double().numpy()
    return x + (x - mean_x) @ b + mean_delta


X = states(30, D, seed=1)[0].view(2, 3, 5, D)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("form", ["tensor", "NumPy", "float64"])
def test_a_map_is_called_on_states_of_any_leading_shape(options, form):
    one = fitted(**options)
    given = {"tensor": X, "NumPy": X.numpy(), "float64": X.double()}[form]
    np.testing.assert_allclose(one(given).numpy(), formula(one, X), atol=1e-12)
    np.testing.assert_allclose(one(given[0, 0, 0]).numpy(), formula(one, X[0, 0, 0]), atol=1e-12)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_a_module_gives_the_map_in_the_dtype_of_its_states(options, dtype, tolerance):
    one = fitted(**options)
    x = X.to(dtype)
    found = one.module(dtype=dtype)(x)
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), torch.from_numpy(formula(one, x)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_its_state_dict_is_that_of_the_block_it_would_be_and_so_is_what_it_gives(options):
    one = fitted(**options)
    block = LinearBlock(one.factors_by_name(), one.mean_x, one.mean_delta)
    module = one.module()
    assert torch.equal(module(X), block(X))
    block.load_state_dict(module.state_dict())


def test_a_module_trains_and_gradients_reach_the_states():
    module = nn.Sequential(fitted().module(), nn.Linear(D, 1))
    x = X.clone().requires_grad_()
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert x.grad.abs().sum() > 0


def test_a_map_to_a_narrower_delta_adds_to_the_first_features():
    x, delta = states(200, D)[0].double(), states(200, 4, seed=2)[0].double()
    moments = Moments(D, 4)
    moments.update(x, delta=delta)
    one = fit(Regression.of(moments))
    expected = one(x)
    torch.testing.assert_close(one.module(dtype=torch.float64)(x), expected)
    assert torch.equal(expected[:, 4:], x[:, 4:])


def test_a_width_that_does_not_fit_is_refused():
    with pytest.raises(LinscoreError, match=r"`x` is \[3, 5\]: give \[\.\.\., 12\]"):
        fitted()(np.zeros((3, 5)))
