"""The sums of the per-token figures in one launch, against NumPy's long doubles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from kernel_oracles import DEVICE
from linscore_kernels.second_moments import totals_kernel
from linscore_kernels.sums import HEAVY, LIGHT, NONFINITE, SCALARS, Sums, TokenStats, reduce


def figures() -> torch.Tensor:
    """Norms of x, y and δ at every angle from 0 to π, next to 0 and π too, and where x, y or both are zero."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.cat(
        [torch.linspace(0, torch.pi, 601), torch.logspace(-6, -1, 60), torch.pi - torch.logspace(-6, -1, 60)]
    )
    x, y = (0.1 + 5 * torch.rand(len(angle), generator=generator) for _ in range(2))
    x[::97], y[::89] = 0, 0
    delta = (x**2 + y**2 - 2 * x * y * angle.double().cos()).clamp_min(0).sqrt().float()
    return torch.stack(
        [x, y, delta, torch.rand(len(angle), generator=generator), torch.rand(len(angle), generator=generator)]
    )


def stats(figures: torch.Tensor) -> TokenStats:
    status = torch.full((figures.shape[1],), LIGHT, dtype=torch.uint8)
    status[5::50], status[7::60] = HEAVY, NONFINITE
    figures = figures.clone()
    figures[:, status == NONFINITE] = torch.nan
    sums = torch.randn(70, 2, 16, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    return TokenStats(torch.zeros(0), figures.to(DEVICE), status.to(DEVICE), sums.to(DEVICE))


def by_definition(given: TokenStats) -> list[float]:
    light = (given.status == LIGHT).cpu().numpy()
    x, y, delta, q_delta, rounding = (row.astype(np.longdouble)[light] for row in given.figures.cpu().numpy())
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(x * y > 0, (x**2 + y**2 - delta**2) / (2 * x * y), 0).clip(-1, 1)
        ratio = np.where(x > 0, delta / x, 0)
    columns = (q_delta, 1 - cosine, np.arccos(cosine) / np.pi, ratio, x, y, delta, rounding)
    counts = [int((given.status == kind).sum()) for kind in (LIGHT, HEAVY, NONFINITE)]
    return [*(float(column.sum()) for column in columns), *counts]


def totals_of(given: TokenStats, width_delta: int) -> Sums:
    return totals_kernel.launch_totals(given.figures, given.status, given.sums, 6, width_delta)


@pytest.mark.parametrize("rows", [8192, 128])
def test_totals_are_those_of_their_definitions(monkeypatch, rows):
    monkeypatch.setattr(totals_kernel, "ROWS", rows)
    monkeypatch.setattr(totals_kernel, "BLOCK", 64)
    given = stats(figures())
    found, expected = totals_of(given, 4), by_definition(given)
    np.testing.assert_allclose(found.totals.cpu(), expected, rtol=1e-13)
    assert len(expected) == len(SCALARS) + 3
    assert torch.equal(found.sum_x, given.sums.double().sum(0)[0, :6])
    assert torch.equal(found.sum_delta, given.sums.double().sum(0)[1, :4])


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 0.4, 1.0, 1.0471975, 1.0471976, 2.0, 3.0, 3.1415926])
def test_both_ways_to_the_totals_agree_at_every_angle(angle):
    x, y = torch.tensor([2.0, 3.0])
    delta = (x**2 + y**2 - 2 * x * y * torch.tensor(angle, dtype=torch.float64).cos()).clamp_min(0).sqrt().float()
    one = stats(torch.stack([x, y, delta, x, y])[:, None])
    np.testing.assert_allclose(totals_of(one, 6).totals.cpu(), reduce(one, 6).totals.cpu(), rtol=4e-16)
