"""Centring of sums against NumPy's covariance."""

import numpy as np
import torch
from linscore_kernels.sums import centre


def test_centred_sums_are_the_covariances_whatever_lies_below_the_diagonal():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 7, generator=generator).double() + 3, torch.randn(50, 4, generator=generator).double() - 1
    second = torch.cat([(x.T @ x).triu() + torch.full((7, 7), 1e9).tril(-1), x.T @ y], 1)
    for n in (50, torch.tensor(50.0, dtype=torch.float64)):
        c_xx, c_xy, t_y = centre(n, x.sum(0), y.sum(0), second, y.square().sum())
        covariance = 49 * np.cov(torch.cat([x, y], 1).numpy().T)
        np.testing.assert_allclose(c_xx, covariance[:7, :7], rtol=1e-10)
        np.testing.assert_allclose(c_xy, covariance[:7, 7:], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(t_y, covariance[7:, 7:].trace(), rtol=1e-12)
