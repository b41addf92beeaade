"""One process works on a folder at a time, and one that was killed holds nobody up."""

import multiprocessing
import os
import signal

import pytest

from linscore.errors import LinscoreError
from linscore.files.lock import LOCK, Lock, alone_in

context = multiprocessing.get_context("fork")


@pytest.fixture
def other(tmp_path):
    """A process that works on `tmp_path`."""
    ours, theirs = context.Pipe()
    process = context.Process(target=keep, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == process.pid
    yield process
    process.kill()
    process.join()


def keep(folder, ready):
    with alone_in(folder):
        ready.send(os.getpid())
        signal.pause()


def test_the_second_is_refused_with_the_number_of_the_first(tmp_path, other):
    message = rf"another process \({other.pid}\) works on {tmp_path}: wait until it has ended, or give another `out`"
    for _ in range(2):
        with pytest.raises(LinscoreError, match=message), alone_in(tmp_path):
            pytest.fail("entered")
    assert (tmp_path / LOCK).read_text() == str(other.pid)


def test_a_killed_process_holds_nobody_up(tmp_path, other):
    other.kill()
    other.join()
    assert (tmp_path / LOCK).exists()
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_lets_others_work(tmp_path, error):
    with pytest.raises(error), alone_in(tmp_path):
        raise error
    with alone_in(tmp_path):
        pass


def test_a_lock_that_was_removed_meanwhile_is_not_taken_for_one(tmp_path):
    """A folder that is made anew has a lock of its own, which the former holder leaves alone."""
    folder = tmp_path / "out"
    folder.mkdir()
    former, later = Lock(folder), Lock(folder)
    former.take()
    (folder / LOCK).unlink()
    later.take()
    former.release()
    with pytest.raises(LinscoreError, match="another process"):
        Lock(folder).take()
    later.release()
    later.release()  # nothing is held any more
    assert not list(folder.iterdir())


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "mine", tmp_path / "new" / "deep"):
        with pytest.raises(LinscoreError), alone_in(folder):
            raise LinscoreError
    with alone_in(tmp_path / "kept" / "deep") as folder:
        (folder / "result").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "kept", "mine", "result"]
