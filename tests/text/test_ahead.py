"""Batches made ahead, against the plain iterator that they are made from."""

import contextlib
import gc
import io
import itertools
import signal
import threading
import time

import pytest
import torch

from linscore.errors import LinscoreError
from linscore.options.text import TextOptions
from linscore.text.ahead import AHEAD, NAME, Ahead
from linscore.text.source import Text
from tests.text.test_packing import word_tokenizer

GPU, CPU = torch.device("cuda"), torch.device("cpu")  # nothing here is put on either


def numbered(count):
    return ({"input_ids": torch.tensor([[number]])} for number in range(count))


def numbers(batches):
    return [batch["input_ids"].item() for batch in batches]


def until(what):
    """Waits until something holds, which a thread is about to do."""
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.001)


def threads_end():
    until(lambda: NAME not in {thread.name for thread in threading.enumerate()})


def test_batches_are_the_same_in_their_order():
    assert numbers(Ahead(GPU).read(numbered(50))) == list(range(50))
    assert numbers(Ahead(GPU).read(numbered(0))) == []


def test_a_thread_makes_them_while_one_is_used_and_only_a_few():
    made = []

    def batches():
        for number in range(50):
            made.append((number, threading.current_thread()))
            yield {"input_ids": torch.tensor([[number]])}

    taken = Ahead(GPU).read(batches())
    assert not made  # nothing is read before it is wanted
    next(taken)
    until(lambda: len(made) == 1 + AHEAD)
    threads_end()  # which has no use until the next one is taken
    time.sleep(0.01)
    assert len(made) == 1 + AHEAD
    assert threading.main_thread() not in {thread for _, thread in made}
    assert numbers(taken) == list(range(1, 50))
    assert [number for number, _ in made] == list(range(50))
    threads_end()


def test_for_a_cpu_they_are_made_when_they_are_wanted():
    for device in (CPU, None):
        source = numbered(3)
        assert Ahead(device).read(source) is source


def test_an_error_comes_in_the_place_of_its_batch():
    def batches():
        yield from numbered(AHEAD + 2)
        raise LinscoreError("this text is damaged")

    taken = Ahead(GPU).read(batches())
    assert numbers(itertools.islice(taken, AHEAD + 2)) == list(range(AHEAD + 2))
    with pytest.raises(LinscoreError, match="this text is damaged"):
        next(taken)
    assert next(taken, None) is None
    threads_end()


def test_doubts_are_said_before_the_batch_that_they_were_met_in():
    said = []
    ahead = Ahead(GPU)
    say = ahead.in_place(said.append)

    def batches():
        for number, batch in enumerate(numbered(20)):
            say(f"before {number}")
            yield batch
        say("behind the last")

    say("at once")
    assert said == ["at once"]
    taken = ahead.read(batches())
    for number in range(10):
        next(taken)
        assert said == ["at once", *(f"before {at}" for at in range(number + 1))]
    assert numbers(taken) == list(range(10, 20))
    assert said[-2:] == ["before 19", "behind the last"]


def test_whoever_takes_no_more_leaves_no_thread_and_no_open_file():
    closed = []

    def batches():
        with contextlib.closing(contextlib.ExitStack()) as stack:
            stack.callback(closed.append, True)
            yield from numbered(10**9)

    taken = Ahead(GPU).read(batches())
    next(taken)
    del taken
    threads_end()
    gc.collect()
    assert closed


def test_nothing_more_is_made_for_whoever_takes_no_more(monkeypatch):
    monkeypatch.setattr("linscore.text.ahead.PATIENCE", 0.01)
    made, closed = [], threading.Event()

    def batches():
        for batch in numbered(10):
            made.append(batch)
            yield batch
            closed.wait(20)

    taken = Ahead(GPU).read(batches())
    next(taken)
    taken.close()
    closed.set()
    threads_end()
    assert len(made) <= 2  # the thread was at it


def test_an_error_of_who_takes_them_leaves_no_thread_while_it_is_looked_at():
    def use(batches):
        for batch in batches:
            _ = 1 / batch["input_ids"].item()

    with pytest.raises(ZeroDivisionError) as kept:
        use(Ahead(GPU).read(numbered(10**9)))
    threads_end()
    del kept


@pytest.fixture
def heeded():
    """Ctrl-C is heeded, also by tests that a shell has put into the background, or where it is blocked."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_does_not_wait_for_a_text_that_hangs(monkeypatch):
    monkeypatch.setattr("linscore.text.ahead.PATIENCE", 0.01)
    waits, hangs = threading.Event(), threading.Event()

    def batches():
        yield from numbered(1)
        waits.wait(20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        hangs.wait(20)
        yield from numbered(10**9)

    taken = Ahead(GPU).read(batches())
    next(taken)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        waits.set()
        next(taken)
    assert time.monotonic() - began < 10
    hangs.set()
    threads_end()


@pytest.mark.parametrize("tokens", [None, 60])
def test_a_text_gives_the_same_batches_folds_and_doubts_as_without(tmp_path, tokens):
    for name in "abcdef":
        words = " ".join(str(ord(name) * number % 2999) for number in range(40))
        (tmp_path / f"{name}.txt").write_text(f'{{"text": "{words}"}}\n' if name in "cf" else words)
    found = {}
    for device in (CPU, GPU):
        doubts = []
        text = Text(TextOptions(text=str(tmp_path), seq_len=8, batch_size=2, tokens=tokens))
        batches = list(text.batches(word_tokenizer(eos=True), 0, device, say=doubts.append))
        found[device] = [[{name: part.tolist() for name, part in batch.items()} for batch in batches], doubts]
    assert found[CPU] == found[GPU]
    assert len(found[CPU][0]) > 3
    assert len(found[CPU][1]) == (2 if tokens is None else 0)


def test_standard_input_is_read_where_it_is_wanted(monkeypatch):
    class Stdin(io.StringIO):
        def read(self, size):
            assert threading.current_thread() is threading.main_thread()
            return super().read(size)

    monkeypatch.setattr("sys.stdin", Stdin("a b " * 40))
    text = Text(TextOptions(text="-", seq_len=8))
    assert sum(batch["input_ids"].numel() for batch in text.batches(word_tokenizer(), 0, GPU)) == 80
