"""Held-out scores along the way are those of the text so far, and end a run once they are stable."""

import pytest
import torch
from oracles import heldout_scores
from stacked import stacked_states
from tiny_models import tiny

import linscore
from linscore import LinscoreError
from linscore.errors import Interrupted
from linscore.text.ahead import AHEAD, Ahead

WIDTH = 32


def ids(sequences=80):
    return torch.randint(3, 64, (sequences, 32), generator=torch.Generator().manual_seed(0))


def batches(count=20):
    """Of 128 tokens, in two folds."""
    return [{"input_ids": part, "folds": torch.tensor([0, 1, 0, 1])} for part in ids().split(4)[:count]]


@pytest.mark.slow
def test_a_look_is_scikit_learns_score_of_the_text_so_far():
    model = tiny("llama")
    report = linscore.score(model, batches(), precision="exact")
    assert [look.tokens for look in report.curve] == [16 * WIDTH, 32 * WIDTH, 64 * WIDTH, 80 * 32]
    folds = torch.arange(80) % 2
    for look in report.curve:
        rows = look.tokens // 32
        pairs = stacked_states(model, ids()[:rows])
        for block, (x, y) in enumerate(pairs):
            given = folds[:rows].repeat_interleave(32)
            heldout, without = heldout_scores(x, y, given)
            assert look.linearity_heldout[block] == pytest.approx(heldout, abs=1e-8)
            assert look.linearity_no_residual_heldout[block] == pytest.approx(without, abs=1e-8)
    names = ("linearity_heldout_spread", "linearity_no_residual_heldout_spread")
    assert report.curve[-1].spread == max(getattr(block, name) for block in report.blocks for name in names)


def test_a_look_waits_until_something_is_held_out():
    one_fold = [{"input_ids": part, "folds": torch.tensor([int(at > 4)] * 4)} for at, part in enumerate(ids().split(4))]
    curve = linscore.score(tiny("llama"), one_fold).curve
    assert [look.tokens for look in curve] == [6 * 128, 8 * 128, 16 * 128, 20 * 128]
    assert all(look.spread is not None for look in curve)


def test_a_run_ends_once_two_looks_in_a_row_are_stable():
    model, read = tiny("llama"), []
    given = (read.append(batch) or batch for batch in batches())
    report = linscore.score(model, given, until_stable=0.5)
    assert (report.tokens, report.stable_tokens, len(read)) == (1024, 1024, 8)
    assert not [doubt for doubt in report.warnings if doubt.kind == "not_stable"]
    spread = report.curve[-1].spread
    short = linscore.score(model, batches(), until_stable=spread / 1e6)
    [doubt] = [doubt for doubt in short.warnings if doubt.kind == "not_stable"]
    assert f"{short.curve[-1].spread:.2g} at the largest" in doubt.message
    assert (short.tokens, short.stable_tokens) == (80 * 32, None)


@pytest.mark.slow
def test_a_run_that_is_read_ahead_ends_at_the_same_batch():
    model, read = tiny("llama"), []
    given = (read.append(batch) or batch for batch in batches())
    report = linscore.score(model, Ahead(torch.device("cuda")).read(given), until_stable=0.5)
    plain = linscore.score(model, batches(), until_stable=0.5)
    assert 8 <= len(read) <= 8 + AHEAD + 1
    for what in ("tokens", "tokens_digest", "curve", "stable_tokens", "loss", "blocks"):
        assert getattr(report, what) == getattr(plain, what)


@pytest.mark.slow
def test_a_run_that_was_stable_when_it_was_interrupted_reads_no_further(tmp_path):
    model, left = tiny("llama"), [8]

    def progress(_tokens):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        linscore.score(model, batches(), out=tmp_path, until_stable=0.5, progress=progress)
    again = linscore.score(model, batches(), out=tmp_path, until_stable=0.5, resume=True)
    assert again.blocks == linscore.score(model, batches(), until_stable=0.5).blocks
    assert again.stable_tokens == 1024


def test_one_fold_has_no_curve_and_is_never_stable():
    assert linscore.score(tiny("llama"), [ids()], folds=1).curve == []
    with pytest.raises(LinscoreError, match="`until_stable` needs held-out scores"):
        linscore.ScoreOptions(folds=1, until_stable=1e-3)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(LinscoreError, match="`until_stable` is"):
            linscore.ScoreOptions(until_stable=wrong)
