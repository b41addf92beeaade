"""Signals that come while something is under way wait until it is whole; a second one waits for nothing."""

import signal
import threading

import pytest

from linscore.machine.signals import held_back


class Signalled(BaseException):
    """What the handler of these tests raises."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], autouse=True)
def number(request):
    """A signal, and a handler that raises."""

    def handle(number, _frame):
        raise Signalled(number)

    before = signal.signal(request.param, handle)
    yield request.param
    signal.signal(request.param, before)


def raises(number, done, times=1):
    """What is done while signals come."""
    with held_back():
        for _ in range(times):
            signal.raise_signal(number)
        done.append("whole")


def test_a_signal_waits_until_the_context_is_left(number):
    done = []
    with pytest.raises(Signalled):
        raises(number, done)
    assert done == ["whole"]
    with pytest.raises(Signalled):
        signal.raise_signal(number)


def test_a_second_signal_waits_for_nothing(number):
    done = []
    with pytest.raises(Signalled):
        raises(number, done, times=2)
    assert done == []


def test_what_a_handler_leaves_behind_stays(number):
    """As that of the command line does, by which it tells SIGTERM from Ctrl-C."""

    def once(number, _frame):
        signal.signal(number, signal.SIG_IGN)
        raise Signalled

    for times in (1, 2):
        signal.signal(number, once)
        with pytest.raises(Signalled):
            raises(number, [], times)
        assert signal.getsignal(number) is signal.SIG_IGN


def test_without_a_signal_and_in_other_threads_nothing_happens(number):
    handler = signal.getsignal(number)
    with held_back():
        pass
    seen = []

    def work():
        with held_back():
            seen.append(signal.getsignal(number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]
    assert signal.getsignal(number) is handler
