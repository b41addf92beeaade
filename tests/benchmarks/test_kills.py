"""A few of the kills of `benchmarks/studies/kills.py`: nothing is lost, and the second run is the unbroken one."""

import pytest
from studies.kills import study


@pytest.mark.slow
def test_kills_lose_nothing_and_what_goes_on_is_the_unbroken_run():
    outcomes = study(4, seed=1, commands=("score", "prune"))
    assert [outcome.faults for outcome in outcomes.values()] == [[], []]
    assert [list(outcome.kills.values()) for outcome in outcomes.values()] == [[1, 1, 0], [1, 1, 0]]
