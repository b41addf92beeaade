"""What processes tell each other of their ends, in one process: a store in memory, and who speaks when."""

import pytest
import torch.distributed as dist

from linscore import LinscoreError
from linscore.machine import heartbeat
from linscore.machine.heartbeat import Heartbeat, meeting_place

OWN = {"certain": True, "interrupted": False}
SIGNAL = {"certain": False, "interrupted": True}
BROKEN = {"certain": False, "interrupted": False}


@pytest.fixture
def three(monkeypatch):
    """Three processes that have met, none of which beats by itself."""
    for name, seconds in {"BEAT": 0.01, "HUSH": 0.05, "GRACE": 0.1, "MEETING": 0.1}.items():
        monkeypatch.setattr(heartbeat, name, seconds)
    for thread in ("_live", "_guard"):
        monkeypatch.setattr(Heartbeat, thread, lambda _self: None)
    monkeypatch.setattr("socket.gethostname", lambda: "node")
    store = dist.HashStore()
    found = [Heartbeat(store, number, 3, print) for number in range(3)]
    for number in range(3):
        store.set(f"host.{number}", "node")  # so that nobody waits
    for one in found:
        one._beat()
        one.meet()
    return found


def test_a_fault_is_said_by_the_first_alone(three):
    first, second, third = three
    assert second.verdict("no model x", **OWN) == ("no model x", True)  # as far as it knows: the first is silent
    assert first.verdict("interrupted", **SIGNAL) == ("process 1 of 0 to 2, on node: no model x; interrupted", True)
    assert third.verdict("connection closed", **BROKEN)[1] is False


def test_a_fault_that_all_have_is_the_firsts_own(three):
    first, second, _ = three
    assert first.verdict("no model x", **OWN) == ("no model x", True)
    assert second.verdict("no model x", **OWN) == ("no model x", False)


def test_one_that_says_nothing_is_named(three):
    first, second, _ = three
    second.part()
    said, speaks = first.verdict("connection closed", **BROKEN)
    assert (said, speaks) == ("process 2 of 0 to 2, on node, was killed or has crashed", True)


def test_where_the_first_is_gone_the_next_speaks(three, monkeypatch):
    _, second, third = three
    for one, local in ((second, "1"), (third, "2")):
        monkeypatch.setenv("LOCAL_RANK", local)
        said, speaks = one.verdict("connection closed", **BROKEN)
        assert said == "process 0 of 0 to 2, on node, was killed or has crashed"
        assert speaks == (local == "1")


def test_an_interruption_of_all_blames_nobody(three):
    first, second, third = three
    for one in (second, third):
        one._tell(heartbeat.ENDED)
    assert first.verdict("interrupted", **SIGNAL) == ("interrupted", True)


def test_processes_that_do_not_come_are_named(monkeypatch):
    monkeypatch.setattr(heartbeat, "MEETING", 0.1)
    with pytest.raises(LinscoreError, match=r"processes \[0, 2\] have not come"):
        Heartbeat(dist.HashStore(), 1, 3, print).meet()


def test_a_launcher_that_names_no_place_is_one_line(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(LinscoreError, match="MASTER_ADDR and MASTER_PORT do not say where they meet"):
        meeting_place()


def test_one_that_is_cut_off_ends_itself(three, monkeypatch):
    """Without the store, whose calls would not come back."""
    monkeypatch.undo()
    monkeypatch.setattr(heartbeat, "SILENCE", 0.0)
    monkeypatch.setattr(heartbeat, "BEAT", 0.01)
    monkeypatch.setenv("LOCAL_RANK", "1")
    said, ended = [], []
    monkeypatch.setattr("os._exit", lambda code: (ended.append(code), three[1]._parted.set()))
    three[1]._say = said.append
    three[1]._guard()
    assert (said, ended) == (["process 0 of 0 to 2, on node, no longer answers"], [2])
