"""Where the products are centred: read off the first rows."""

import torch
from linscore_kernels import Pilot
from oracles import states


def test_the_pilot_is_the_median_of_the_leading_finite_rows_whatever_follows():
    x, y = states(1000, 12)
    x[0] = float("nan")
    pilot = Pilot.choose(x, y)
    torch.testing.assert_close(pilot.center_x, x[1:257].median(0).values)
    longer = Pilot.choose(x[:400], y[:400])
    assert torch.equal(pilot.center_delta, longer.center_delta)
    assert Pilot.choose(x[:1], y[:1]) is None
