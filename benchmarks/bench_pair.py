"""Both scores of one pair of states, against what people would use instead.

The SVD is the published recipe of the paper's code (llm-microscope cannot be imported): centre, normalize, thin SVD,
predict, once with and once without the residual.
"""

import pytest
import torch
from peers import compare
from sklearn.linear_model import LinearRegression

from linscore import Moments, block_metrics

TOKENS = 65_536


def states(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, d, generator=generator)
    return x, x + 0.1 * torch.randn(TOKENS, d, generator=generator)


def by_moments(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    moments = Moments(x.shape[1])
    moments.update(x, y)
    scores = block_metrics(moments, spectra=False)
    return scores.linearity, scores.linearity_no_residual


def by_svd(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    return _svd_score(x, y), _svd_score(x, y - x)


def _svd_score(x: torch.Tensor, target: torch.Tensor) -> float:
    x, target = x - x.mean(0, keepdim=True), target - target.mean(0, keepdim=True)
    x, target = x / x.norm(), target / target.norm()
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return 1 - (x @ (v.T @ ((u.T @ target) / s[:, None])) - target).square().sum().item()


def by_scikit_learn(x: torch.Tensor, y: torch.Tensor) -> None:
    x, delta = x.numpy(), (y - x).numpy()
    LinearRegression().fit(x, delta).score(x, delta, None)


def by_plain_products(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Only the products, in one precision, uncentred: a floor for anyone who writes it by hand."""
    return x.T @ x, x.T @ (y - x)


@pytest.mark.parametrize("d", [768])
def test_both_scores_of_a_pair(benchmark, d):
    x, y = states(d)
    exact = by_svd(x.double(), y.double())
    for name, scores in (("ours", by_moments(x, y)), ("float32 SVD", by_svd(x, y))):
        error = max(abs(score - truth) for score, truth in zip(scores, exact, strict=True))
        benchmark.extra_info[f"{name}: error against a float64 SVD"] = f"{error:.1e}"
        assert error < (1e-5 if name == "ours" else 0.1)
    peers = {
        "SVD of the paper's code": lambda: by_svd(x, y),
        "scikit-learn, one of the two": lambda: by_scikit_learn(x, y),
        "x.T @ x, x.T @ (y - x)": lambda: by_plain_products(x, y),
    }
    compare(benchmark, lambda: by_moments(x, y), peers, rounds=3)


@pytest.mark.parametrize("d", [768, 2048])
def test_moments_against_plain_products(benchmark, d):
    x, y = (t[:16384] for t in states(d))
    moments = Moments(d)
    peers = {"x.T @ x, x.T @ (y - x)": lambda: by_plain_products(x, y)}
    compare(benchmark, lambda: moments.update(x, y), peers)
