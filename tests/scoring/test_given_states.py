"""`linscore.score_states`: hidden states that are there already give the figures of a score of their model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import svd_scores
from tiny_models import VOCABULARY, shared

import linscore
from linscore import LinscoreError, ScoreOptions, Span
from linscore.scoring.given_states import GivenStates

B, T = 12, 16
IDS = torch.randint(3, VOCABULARY, (B, T), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(B, T, dtype=torch.long)
MASK[::2, -4:] = 0


def hidden_states(ids: torch.Tensor = IDS, mask: torch.Tensor = MASK) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return shared("llama")(ids, attention_mask=mask, output_hidden_states=True).hidden_states


def as_given(states: tuple[torch.Tensor, ...], form: str) -> object:
    return {
        "tuple": states,
        "stacked": torch.stack(states),
        "numpy": [one.numpy() for one in states],
        "stacked numpy": torch.stack(states).numpy(),
    }[form]


@pytest.mark.parametrize("form", ["tuple", "stacked", "numpy", "stacked numpy"])
def test_the_figures_are_those_of_a_score_but_for_the_last_block(form):
    expected = linscore.score(
        shared("llama"), [{"input_ids": IDS, "attention_mask": MASK}], blocks=[0, 1], spans=[Span(0, 1)]
    )
    mask = MASK.numpy().astype(float) if "numpy" in form else MASK
    found = linscore.score_states(as_given(hidden_states(), form), mask, spans=[Span(0, 1)])
    assert found.blocks == [replace(one, parameters=None, kv_bytes=None) for one in expected.blocks]
    assert found.spans == expected.spans
    assert (found.tokens, found.depth, found.width, found.dtype) == (B * T - 4 * B // 2, 3, 32, "float32")
    assert (found.tokens_digest, found.weight_sample) == (None, None)
    (warning,) = (one for one in found.warnings if one.kind == "last_block")
    assert "behind the final norm" in warning.message


def test_the_last_state_is_behind_the_norm_and_is_not_taken_for_what_leaves_the_block():
    """What transformers gives last is not what score reads; where it is said to be, it is scored as it is."""
    states, rows = hidden_states(), MASK.bool()
    scored = linscore.score(shared("llama"), [{"input_ids": IDS, "attention_mask": MASK}]).blocks[2].linearity
    found = linscore.score_states(states, MASK, last_is_normed=False, precision="exact")
    assert len(found.blocks) == 3
    assert found.blocks[2].linearity == pytest.approx(svd_scores(states[2][rows], states[3][rows])[0], abs=1e-9)
    assert abs(found.blocks[2].linearity - scored) > 1e-3
    assert "last_block" not in {one.kind for one in found.warnings}


def test_batches_add_up_and_know_their_tokens():
    whole = linscore.score_states(hidden_states(), MASK)
    given = GivenStates(ScoreOptions())
    for part in range(0, B, 4):
        ids, mask = IDS[part : part + 4], MASK[part : part + 4]
        assert given.add(hidden_states(ids, mask), mask, input_ids=ids.numpy()) == mask.sum()
    found = given.report(name="mine")
    for one, other in zip(found.blocks, whole.blocks, strict=True):
        assert one.linearity == pytest.approx(other.linearity, abs=1e-6)
        assert one.linearity_heldout == pytest.approx(other.linearity_heldout, abs=1e-6)
    assert found.tokens_digest == linscore.score(shared("llama"), [IDS]).tokens_digest


def test_one_sequence_needs_no_batch_and_a_lost_token_is_lost_to_all():
    states = [one[1].clone() for one in hidden_states()]
    states[1][3] = torch.nan
    found = linscore.score_states(states, np.ones(T), folds=1)
    assert {block.rows for block in found.blocks} == {T - 1}
    assert found.nonfinite_rows == 1


def test_a_report_of_states_is_saved_and_ranked_like_any_other(tmp_path):
    found = linscore.score_states(hidden_states(), MASK)
    found.save(tmp_path)
    assert linscore.Report.load(tmp_path).blocks == found.blocks
    assert {one.index for one in linscore.rank(found)} == {0, 1}


STATES = torch.zeros(3, 2, 4, 5)


@pytest.mark.parametrize(
    ("states", "given", "message"),
    [
        (None, {}, "`hidden_states` is of type NoneType: give h_0"),
        ([STATES[0]], {}, "give two at least"),
        ([STATES[0], STATES[1, :1]], {}, r"`hidden_states\[1\]` is \[1, 4, 5\]"),
        (STATES.int(), {}, r"`hidden_states\[0\]` is \[2, 4, 5\] torch.int32"),
        ([(STATES[0],), (STATES[1],)], {}, r"`hidden_states\[0\]` is of type tuple"),
        (STATES[:2], {}, "block 0, the last one, is asked for"),
        (STATES, {"blocks": [1]}, "block 1, the last one, is asked for"),
        (STATES, {"spans": [Span(0, 1)]}, "block 1, the last one, is asked for"),
        (STATES, {"mask": torch.ones(2, 5)}, r"`mask` is \[2, 5\]"),
        (STATES, {"mask": torch.full((2, 4), -1e9)}, "`mask` must hold 1"),
        (STATES, {"sub_blocks": True}, "`sub_blocks` needs a run of the model"),
        (STATES, {"skip_tokens": [1]}, "`skip_tokens` are given, and no token ids"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(states, given, message):
    with pytest.raises(LinscoreError, match=message):
        linscore.score_states(states, **given)


def test_batches_that_differ_are_refused():
    given = GivenStates(ScoreOptions())
    given.add(hidden_states(), MASK)
    with pytest.raises(LinscoreError, match="`hidden_states` are 3, and were 4 before"):
        given.add(hidden_states()[:3], MASK)
    with pytest.raises(LinscoreError, match="give ids as the states are"):
        given.add(hidden_states(), input_ids=IDS[:, 1:])
