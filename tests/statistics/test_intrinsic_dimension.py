"""TwoNN against a loop over pairs in float64, and on clouds whose dimension is known."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from linscore import LinscoreError
from linscore.statistics.intrinsic_dimension import intrinsic_dimension


def embedded(points: np.ndarray, width: int = 40) -> torch.Tensor:
    """Points turned into a wider space, which moves no distance."""
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, points.shape[1])))
    return torch.from_numpy(points @ basis.T)


def by_pairs(points: torch.Tensor, kept: float) -> float:
    apart = cdist(points.double().numpy(), points.double().numpy())
    np.fill_diagonal(apart, np.inf)
    nearest = np.sort(apart, axis=1)
    ratios = np.sort(nearest[:, 1] / nearest[:, 0])
    used = int(kept * len(ratios))
    x, y = np.log(ratios[:used]), -np.log(1 - np.arange(1, len(ratios) + 1)[:used] / len(ratios))
    return float(x @ y / (x @ x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_that_of_a_loop_over_pairs(dtype):
    points = torch.randn(1500, 24, generator=torch.Generator().manual_seed(0), dtype=dtype) + 50
    found = intrinsic_dimension(points)
    assert found.dimension == pytest.approx(by_pairs(points, 0.9), rel=1e-4)
    assert found.points == 1500
    assert 0 < found.error < 0.1 * found.dimension


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_cube_has_its_dimension(dimension):
    cube = np.random.default_rng(0).uniform(size=(4000, dimension))
    assert intrinsic_dimension(embedded(cube)).dimension == pytest.approx(dimension, rel=0.1)


def test_a_sphere_and_a_roll_have_theirs():
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(4000, 4))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    assert intrinsic_dimension(embedded(sphere)).dimension == pytest.approx(3, rel=0.1)
    turn, height = rng.uniform(5, 12, 4000), rng.uniform(0, 20, 4000)
    roll = np.column_stack((turn * np.cos(turn), height, turn * np.sin(turn)))
    assert intrinsic_dimension(embedded(roll)).dimension == pytest.approx(2, rel=0.1)


def test_points_that_are_there_twice_count_once():
    points = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    assert intrinsic_dimension(points.repeat(3, 1)) == intrinsic_dimension(points)
    assert intrinsic_dimension(torch.ones(50, 3)) is None


def test_what_has_no_distance_is_said():
    with pytest.raises(LinscoreError, match=r"x is \[2, 3, 4\]: give points"):
        intrinsic_dimension(torch.zeros(2, 3, 4))
    with pytest.raises(LinscoreError, match="not finite"):
        intrinsic_dimension(torch.full((20, 3), torch.nan))
