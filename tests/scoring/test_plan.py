from dataclasses import replace

import pytest

from linscore.errors import LinscoreError
from linscore.machine.devices import Devices
from linscore.models.on_paper import Sizes
from linscore.scoring import plan
from linscore.scoring.needs import Needs
from linscore.scoring.plan import make_plan, size

GB = 10**9
# 10 blocks of 1 GB, 2 GB beside; 4 GB of moments, of which a block's are 0.4; a batch of 3 GB.
NEEDS = Needs(
    Sizes(6 * GB, 12 * GB, GB, 10 * GB), 10, 4096, 8192, 4 * GB, 4 * GB // 10, 0, 3 * GB, GB, 2 * GB, 0, 1e10, 1e12
)
CARD = Devices("1 × card", "cuda", 1, 24 * GB, 64 * GB, 1e14, 25e9, measured=False)
CPU = replace(CARD, name="a CPU", kind="cpu")
ABOUT = {"model": "m", "dtype": "bfloat16", "folds": 2, "sequences": 8, "length": 2048}


@pytest.fixture(autouse=True)
def accelerate_is_there(monkeypatch):
    monkeypatch.setattr(plan, "missing", lambda _modules: [])


def planned(devices, tokens=10**6, room=None, **asked):
    return make_plan(NEEDS, devices, tokens=tokens, room=room, **asked, **ABOUT)


def test_bytes_of_each_placement_are_those_worked_out_by_hand():
    whole, spread, stream = planned(replace(CARD, count=4)).ways
    assert (whole.device, whole.device_bound) == (19 * GB, 23 * GB)  # 12 + 4 + 3, and 4 of heavy rows
    assert (spread.device, spread.device_bound) == (
        2 * GB + 3 * GB + 12 * GB // 10 + 3 * GB,
        10.4 * GB,
    )  # 3 blocks of 10
    assert stream.device == 2 * GB + GB + 3 * GB + 4 * GB // 10
    assert (stream.host, stream.host_bound) == (GB + 4 * GB + 8192 * 10**6, GB + 8 * GB + 8192 * 10**6)


def test_on_a_cpu_what_a_stream_keeps_is_in_the_same_memory_unless_it_is_in_files():
    stream, in_files = (planned(CPU, scratch=scratch).ways[2] for scratch in (False, True))
    assert (stream.device, stream.host) == (2 * GB + GB + 3 * GB + GB + 4 * GB + 8192 * 10**6, 0)
    assert (in_files.device, in_files.scratch) == (2 * GB + GB + 3 * GB + GB + 4 * GB // 10, 4 * GB + 8192 * 10**6)


@pytest.mark.parametrize(
    ("devices", "placement"),
    [
        (CARD, "whole"),
        (replace(CARD, memory=None, host=None), "whole"),
        (replace(CARD, memory=22 * GB, count=4), "map"),
        (replace(CARD, memory=22 * GB), "stream"),
        (replace(CARD, memory=8 * GB, count=4), "stream"),
        (replace(CPU, memory=24 * GB), "whole"),
        (replace(CARD, memory=6 * GB), "stream"),  # 6.4 GB: an estimate may be wrong by a quarter
        (replace(CARD, memory=5 * GB), None),
        (replace(CARD, memory=8 * GB, host=5 * GB), None),
    ],
)
def test_the_first_placement_that_fits_is_taken(devices, placement):
    assert planned(devices).placement == placement


def test_what_cannot_be_is_refused_with_what_would_help():
    with pytest.raises(
        LinscoreError, match=r"m does not fit: `placement=stream` takes about 6.4 GB of the device, where 5"
    ):
        planned(replace(CARD, memory=5 * GB)).check()
    with pytest.raises(LinscoreError, match=r"13.2 GB of the host.*`scratch`"):
        planned(replace(CARD, memory=8 * GB, host=5 * GB)).check()
    with pytest.raises(LinscoreError, match=r"`placement=whole` takes about 19 GB.*`placement=auto`"):
        planned(replace(CARD, memory=8 * GB), wanted="whole").check()


def test_without_accelerate_whole_is_tried_where_it_may_fit_and_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(plan, "missing", lambda _modules: ["accelerate"])
    assert planned(replace(CARD, memory=16 * GB)).placement == "whole"
    with pytest.raises(LinscoreError, match="accelerate is missing: pip install"):
        planned(replace(CARD, memory=8 * GB)).check()


def test_what_is_asked_for_is_taken_if_it_may_fit():
    assert planned(CARD, wanted="stream").placement == "stream"
    assert planned(replace(CPU, memory=8 * GB), wanted="whole").placement == "whole"  # its weights are mapped files
    assert planned(replace(CPU, memory=5 * GB), wanted="whole").placement is None


def test_passes_over_the_weights_are_as_many_as_groups_of_states():
    assert planned(CARD, room=None).ways[2].passes == 1
    assert planned(CARD, room=8192 * 300_000).ways[2].passes == 4
    assert planned(CARD, tokens=None, room=GB).ways[2].passes is None


def test_time_is_that_of_products_at_a_share_of_their_rate_or_of_reading():
    whole, spread, stream = planned(replace(CARD, count=4)).ways
    solve = 1e12 / (plan.SOLVE_SHARE["cuda"] * 1e14)
    collect = 1e10 * 1e6 / (plan.SHARE["cuda"] * 1e14)
    assert whole.seconds == pytest.approx(collect / 4 + solve)
    assert spread.seconds == stream.seconds == pytest.approx(collect + solve)
    assert planned(CARD, room=8192).ways[2].seconds == pytest.approx(10**6 * 10 * GB / 2e9)  # a token at a time
    assert planned(replace(CARD, matrix=None)).ways[0].seconds is None


def test_sizes_are_said_in_three_digits():
    assert [size(count) for count in (812e9, 1.091e12, 16.06e9, 999.9e6, 64_000)] == [
        "812 GB",
        "1.09 TB",
        "16.1 GB",
        "1 GB",
        "64 kB",
    ]
