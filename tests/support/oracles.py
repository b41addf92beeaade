"""Independent answers in float64: an SVD of stacked activations, SciPy, scikit-learn; never the code under test."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import procrustes as scipy_procrustes
from sklearn.linear_model import LinearRegression


def states(n: int, d: int, seed: int = 0, noise: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 x and y of a residual stream: correlated features, a mean, y = x + something partly linear in x."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x = randn(n, d) @ (randn(d, d) / d**0.5 + torch.eye(d)) + randn(d)
    delta = 0.1 * x @ randn(d, d) / d**0.5 + 0.1 * torch.tanh(x @ randn(d, d) / d**0.5) + noise * randn(n, d)
    return x, x + delta


def svd_scores(x: torch.Tensor, y: torch.Tensor, rounding: float = 1e-12) -> tuple[float, float]:
    """Linearity with and without residual by the paper's recipe: centre, normalize, thin SVD, predict.

    Directions whose singular value is below `rounding` times the largest are left out.
    """
    x, y = x.double().numpy(), y.double().numpy()
    return _svd_score(x, y, rounding), _svd_score(x, y - x, rounding)


def _svd_score(x: np.ndarray, target: np.ndarray, rounding: float) -> float:
    x, target = x - x.mean(0), target - target.mean(0)
    target = target / np.linalg.norm(target)
    u, s, _ = np.linalg.svd(x / np.linalg.norm(x), full_matrices=False)
    u = u[:, s > rounding * s[0]]
    return 1 - float(((target - u @ (u.T @ target)) ** 2).sum())


def heldout_scores(x: torch.Tensor, y: torch.Tensor, folds: torch.Tensor) -> tuple[float, float]:
    """Held-out linearity with and without residual: scikit-learn fits δ on x per fold, errors and totals are summed."""
    x, y = x.double().numpy(), y.double().numpy()
    delta = y - x
    error = total_y = total_delta = 0.0
    for fold in folds.unique():
        test = (folds == fold).numpy()
        fitted = LinearRegression().fit(x[~test], delta[~test])
        error += ((delta[test] - fitted.predict(x[test])) ** 2).sum()
        total_y += ((y[test] - y[test].mean(0)) ** 2).sum()
        total_delta += ((delta[test] - delta[test].mean(0)) ** 2).sum()
    return 1 - error / total_y, 1 - error / total_delta


def procrustes(x: torch.Tensor, y: torch.Tensor) -> float:
    """1 − SciPy's disparity."""
    return 1 - scipy_procrustes(x.double().numpy(), y.double().numpy())[2]


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """From the n × n Gram matrices, the definition of Kornblith et al."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return float((k * l).sum() / (k.norm() * l.norm()))
