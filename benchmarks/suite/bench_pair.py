"""Both scores of one pair of states, against what people would use instead.

The SVD is the published recipe of the paper's code: centre, normalize, thin SVD, predict, once with and once without
the residual. It is written anew because `llm-microscope` 0.0.7 on PyPI cannot be imported (its `__init__` imports a
top-level `logit_lens` that is not there) and its score without the residual returns nothing.
"""

import pytest
import torch
from measure import add_floor, compare
from shapes import DEVICE, SHAPES
from sklearn.linear_model import LinearRegression

from linscore import Moments, block_metrics
from linscore.machine.kernel_cases import random_states
from linscore.machine.timing import clock, rates

GROUP = "both scores of a pair"
pytestmark = pytest.mark.benchmark(timer=clock)

Scores = tuple[float, float]  # with the residual, without


def by_moments(x: torch.Tensor, y: torch.Tensor) -> Scores:
    moments = Moments(x.shape[1], device=x.device)
    moments.update(x, y)
    scores = block_metrics(moments, spectra=False)
    return scores.linearity, scores.linearity_no_residual


def by_svd(x: torch.Tensor, y: torch.Tensor) -> Scores:
    return _svd_score(x, y), _svd_score(x, y - x)


def _svd_score(x: torch.Tensor, target: torch.Tensor) -> float:
    x, target = _normalized(x), _normalized(target)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return 1 - (x @ (v.T @ ((u.T @ target) / s[:, None])) - target).square().sum().item()


def by_qr(x: torch.Tensor, y: torch.Tensor) -> Scores:
    """The same scores by an orthogonal basis of x: the judge, in float64."""
    x, y = x.double(), y.double()
    basis = torch.linalg.qr(_normalized(x)).Q
    targets = _normalized(y), _normalized(y - x)
    return tuple((basis.T @ target).square().sum().item() for target in targets)


def _normalized(states: torch.Tensor) -> torch.Tensor:
    states = states - states.mean(0, keepdim=True)
    return states / states.norm()


def by_scikit_learn(x: torch.Tensor, y: torch.Tensor) -> None:
    x, delta = x.numpy(), (y - x).numpy()
    LinearRegression().fit(x, delta).score(x, delta, None)


def by_plain_products(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Only the products, in one precision, uncentred: a floor for anyone who writes it by hand."""
    return x.T @ x, x.T @ (y - x)


@pytest.mark.seconds(gpu=20, cpu=60)
@pytest.mark.parametrize(
    "memory",
    [pytest.param("as Python leaves it", marks=pytest.mark.as_python_does), "kept when freed"],
)
def test_both_scores_of_a_pair(benchmark, memory):
    """Memory matters to the SVD most of all: glibc returns it to the system, and gets it back page by page."""
    if memory == "as Python leaves it" and DEVICE.type == "cuda":
        pytest.skip("torch keeps a GPU's memory itself")
    benchmark.group = GROUP
    d, tokens = SHAPES.pair
    x, y = random_states(d, tokens, torch.float32, DEVICE)
    peers = {
        "SVD of the paper's code": lambda: by_svd(x, y),
        "x.T @ x, x.T @ (y - x)": lambda: by_plain_products(x, y),
    }
    if memory == "kept when freed":  # at its best
        on_cpu = x.cpu(), y.cpu()
        peers["scikit-learn, one of the two, on the CPU"] = lambda: by_scikit_learn(*on_cpu)
    name = f"d = {d}, {tokens:,} tokens, memory {memory}"
    compare(benchmark, lambda: by_moments(x, y), peers, shape=name, dtype=x.dtype, rounds=3, long=True)
    add_floor(benchmark, 3 * d**2 * tokens / rates(DEVICE, x.dtype).matrix)  # of the products; the solve is small
    exact = by_qr(x, y)
    for who, scores in (("linscore", by_moments(x, y)), ("float32 SVD", by_svd(x, y))):
        error = max(abs(score - truth) for score, truth in zip(scores, exact, strict=True))
        benchmark.extra_info["figures"][f"error of {who} against float64"] = error
        assert error < (1e-5 if who == "linscore" else 0.1)
