"""What is said of a long job where standard error is no terminal: a line now and then, and nothing else."""

import pytest
import torch

from linscore import progress
from linscore.progress import StepProgress, TokenProgress, silence, watched


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as a test sets them; rich keeps its own."""
    seconds = [100.0]

    class Time:
        @staticmethod
        def monotonic():
            return seconds[0]

    monkeypatch.setattr(progress, "time", Time)
    return seconds


def test_a_line_comes_at_most_every_few_seconds(clock, capsys):
    with TokenProgress(12_000, "scoring") as bar:
        for _ in range(12):
            clock[0] += 2
            bar.advance(1000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    assert "\x1b" not in err
    assert [line.split(" tokens")[0] for line in err.splitlines()] == [
        f"scoring: {done},000 of about 12,000" for done in (3, 6, 9, 12)
    ]


def test_a_short_job_says_nothing(clock, capsys):
    with TokenProgress(None, "scoring") as bar:
        clock[0] += 4.9
        bar.advance(1000)
    assert capsys.readouterr() == ("", "")


def test_steps_have_their_loss_and_batches_their_tokens(clock, capsys):
    with StepProgress("distilling", 20) as bar:
        clock[0] += 6
        bar.advance(7, 3.25, 100)
    for _ in watched([{"input_ids": torch.zeros(2, 3)}], None, "measuring", lambda _batch: 5):
        clock[0] += 6
    steps, tokens = capsys.readouterr().err.splitlines()
    assert steps.startswith("distilling: step 7/20  loss 3.25")
    assert tokens.startswith("measuring: 5 tokens")


def test_silence_is_kept_while_it_is_asked_for(clock, capsys):
    with TokenProgress(None, "scoring") as bar:
        clock[0] += 6
        with silence():
            bar.advance(1)
        assert capsys.readouterr().err == ""
        bar.advance(1)
        assert capsys.readouterr().err.startswith("scoring: 2 tokens")
