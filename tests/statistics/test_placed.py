"""Where moments are solved: forced either way by the rates that are measured, on a machine without a GPU."""

from __future__ import annotations

import pytest
import torch

from linscore import Moments
from linscore.machine.timing import quick_matrix_rate
from linscore.statistics import placed
from linscore.statistics.placed import Placed, where_to_solve

GPU, HOST, NOWHERE = torch.device("cuda:1"), torch.device("cpu"), torch.device("meta")


@pytest.fixture
def rates(monkeypatch):
    """Float64 rates of a GPU and of its host, in place of measured ones."""

    def are(gpu: float, host: float) -> None:
        of = {(GPU, torch.float64): gpu, (HOST, torch.float64): host}
        monkeypatch.setattr(placed, "quick_matrix_rate", lambda *asked: of[asked])

    return are


def some_moments(rows: int = 40) -> Moments:
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    moments = Moments(5)
    moments.update(x, x.cumsum(1))
    return moments


def test_the_faster_of_gpu_and_host_solves(rates):
    rates(gpu=60e12, host=1e12)  # as an H200 beside two sockets
    assert where_to_solve(GPU) == GPU
    rates(gpu=1.2e12, host=3e12)  # as a B300
    assert where_to_solve(GPU) == HOST


def test_a_cpu_solves_its_own_and_measures_nothing(rates):
    rates(gpu=0, host=0)
    assert where_to_solve(HOST) == HOST
    moments = some_moments()
    assert Placed({"block.0": moments}, where_to_solve)["block.0"] is moments


def test_moments_are_where_they_are_used_and_stay_where_they_were():
    moments = some_moments()
    there = Placed({"block.0": moments}, lambda device: NOWHERE if device == HOST else HOST)
    assert list(there) == ["block.0"]
    assert len(there) == 1
    assert there["block.0"].device == NOWHERE
    assert moments.device == HOST


def test_a_rate_is_measured_with_random_numbers_of_its_own():
    state = torch.get_rng_state()
    quick_matrix_rate.cache_clear()
    assert quick_matrix_rate(HOST, torch.float64) > 0
    assert torch.equal(state, torch.get_rng_state())
