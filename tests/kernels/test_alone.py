"""The kernels by themselves: with torch alone, and as builds that the `kernels` package loads beside each other."""

from __future__ import annotations

import pytest
import torch
from linscore_kernels import pilot


@pytest.mark.parametrize("rows", [1, 2, 9, 256])
def test_without_numpy_a_pilot_is_the_same(monkeypatch, rows):
    x, y = torch.randn(2, rows, 24, generator=torch.Generator().manual_seed(rows))
    wanted = pilot.Pilot.choose(x, y)
    monkeypatch.setattr(pilot, "np", None)
    found = pilot.Pilot.choose(x, y)
    assert torch.equal(found.centers, wanted.centers)
    assert torch.equal(found.scales, wanted.scales)
    assert (found.limit_x, found.limit_delta) == (wanted.limit_x, wanted.limit_delta)
