"""What is said of maps that do no good on unseen text."""

import pytest

from linscore.jobs.cut import _warn
from linscore.surgery.record import Replacement


def fit(heldout, dropped, **form):
    return {**form, "ridge": None, "error": 0.1, "error_heldout": heldout, "error_dropped": dropped}


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (fit(0.5, 1.2, kind="full"), []),
        (fit(1.1, 1.2, kind="full"), ["misses 110.0%, the mean of what it adds 100%"]),
        (fit(1.1, 1.2, kind="mean"), []),
        (fit(1.3, 1.2, kind="full"), ["misses 130.0%, dropping it 120.0%: prune it"]),
        (fit(1.3, 1.2, kind="mean"), ["dropping it"]),
        (fit(None, 1.2, kind="full"), []),
        (None, []),
    ],
)
def test_a_map_that_is_worse_than_less_is_said_so(described, expected):
    said = []
    _warn([Replacement("3", "linear", 3, fit=described)], said.append)
    assert len(said) == len(expected)
    assert all(words in line for words, line in zip(expected, said, strict=True))


def test_what_is_missed_says_of_what():
    linear = Replacement("3", "linear", 3, fit=fit(0.51, 1.2, kind="full", rank=8)).summary()
    fused = Replacement("3-4", "fused", 2, fit=fit(0.92, 1.2, on="intermediate")).summary()
    assert "misses 51.0% of the variance of what was added (held out), as read off the state that entered" in linear
    assert "misses 92.0% of the variance of what was added (held out), as read off the intermediate of the MLP" in fused
