"""However a command ends: one line, an exit code, and the traceback only for who asks for it."""

import contextlib
import errno
import os
import sys

import pytest
import torch

from linscore.errors import LinscoreError
from linscore.jobs.rank import Ranking


@pytest.fixture
def ranking(run, monkeypatch):
    """`linscore [BEFORE] rank FOLDER [AFTER]`, whose job raises an error."""

    def call(error, before=(), after=()):
        def fail(*_args, **_kwargs):
            raise error

        monkeypatch.setattr("linscore.jobs.rank.run_rank", fail)
        return run(*before, "rank", "folder", *after)

    return call


FAULTS = [
    (PermissionError(errno.EACCES, "Permission denied", "a/report.json"), "a/report.json: Permission denied"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", b"a"), "a: Is a directory"),
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (OSError("no\nnumber"), "no number"),
    (LinscoreError("`tokens` is 0"), "--tokens is 0"),
    (MemoryError(), "there is not enough memory: give a smaller batch"),
    (torch.OutOfMemoryError("CUDA out of memory"), "there is not enough memory: give a smaller batch"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "there is not enough memory"),
]


@pytest.mark.parametrize(("error", "line"), FAULTS, ids=lambda value: type(value).__name__)
def test_what_stops_a_command_is_one_line_and_code_2(ranking, error, line):
    code, out, err = ranking(error)
    assert (code, out) == (2, "")
    assert err.startswith(f"linscore: {line}")
    assert err.count("\n") == 1


def test_what_nobody_expected_says_where_it_was_and_that_it_is_a_bug(ranking):
    code, _, err = ranking(KeyError("key\nof two lines"))
    assert code == 2
    assert err.count("\n") == 1
    for said in ("bug", "KeyError", "(at linscore/cli/rank.py:", "report it", "--debug"):
        assert said in err
    assert os.getcwd() not in err


def test_a_file_that_ends_too_early_is_no_interruption(ranking):
    code, _, err = ranking(EOFError("Compressed file ended"))
    assert code == 2
    assert "EOFError: Compressed file ended" in err


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), LinscoreError("y"), KeyboardInterrupt()])
@pytest.mark.parametrize("asked", ["before", "after", "environment"])
def test_debug_shows_the_traceback_and_changes_nothing_else(ranking, monkeypatch, error, asked):
    plain = ranking(error)
    if asked == "environment":
        monkeypatch.setenv("LINSCORE_DEBUG", "1")
    code, out, err = ranking(error, ("--debug",) * (asked == "before"), ("--debug",) * (asked == "after"))
    assert (code, out) == plain[:2]
    assert err.endswith(plain[2])
    assert "Traceback (most recent call last)" in err
    assert "Traceback" not in plain[2]


@pytest.mark.parametrize("command", [["doctor"], ["--help"], ["rank", "folder", "--json"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(run, monkeypatch, command):
    """`linscore … | head -0`: a pipe whose other end is closed, noticed by rich, by click, or when all is flushed."""
    monkeypatch.setattr("linscore.jobs.rank.run_rank", lambda *_args, **_kwargs: Ranking("cosine", {}))
    read, write = os.pipe()
    os.close(read)
    pipe = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    code, _, err = run(*command)
    monkeypatch.undo()
    assert (code, err) == (1, "")
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def test_no_command_at_all_shows_the_help(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Commands:" in err
