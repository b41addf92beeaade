"""A series of checkpoints, against float64 scores of their stacked states."""

import json

import numpy as np
import pytest
import torch
from oracles import heldout_scores, svd_scores
from series import SEQ_LEN
from stacked import stacked_states

from linscore.dynamics.series import Dynamics
from linscore.errors import LinscoreError
from linscore.models.load import load_pretrained
from linscore.options.text import TextOptions
from linscore.text.source import Text

pytestmark = pytest.mark.usefixtures("one_thread", "no_picture")


FIGURES = ["linearity", "linearity_heldout", "linearity_no_residual", "linearity_no_residual_heldout", "cosine"]


def test_every_figure_of_every_block_equals_the_stacked_states(runs, text, done):
    found = json.loads(done[1].to_json())
    assert found["steps"] == [9, 10]
    assert found["checkpoints"] == [str(runs / "checkpoint-9"), str(runs / "checkpoint-10")]
    for place, name in enumerate(found["checkpoints"]):
        loaded = load_pretrained(name, device="cpu")
        batches = list(
            Text(TextOptions(text=text, seq_len=SEQ_LEN)).batches(loaded.tokenizer, loaded.context, loaded.model.device)
        )
        ids = torch.cat([batch["input_ids"] for batch in batches])
        folds = torch.cat([batch["folds"] for batch in batches]).repeat_interleave(SEQ_LEN)
        assert found["tokens"] == ids.numel()
        for block, (x, y) in enumerate(stacked_states(loaded.model, ids)):
            x, y = x.double(), y.double()
            (score, score_apart), (heldout, heldout_apart) = svd_scores(x, y), heldout_scores(x, y, folds)
            cosine = torch.cosine_similarity(x, y).mean().item()
            expected = dict(zip(FIGURES, (score, heldout, score_apart, heldout_apart, cosine), strict=True))
            assert {name: found["blocks"][name][place][block] for name in FIGURES} == pytest.approx(expected, abs=1e-5)
    for name in FIGURES:
        np.testing.assert_allclose(found["mean"][name], np.mean(found["blocks"][name], axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["modified"].pop(), "not every column has 2 entries"),
        (lambda data: data["blocks"]["cosine"].pop(), "not every column has 2 entries"),
        (lambda data: data["blocks"].pop("cosine"), "blocks has linearity"),
        (lambda data: data["warnings"].__setitem__(0, "doubt"), r"warnings\[0\] is 'doubt', not a list"),
        (lambda data: data.update(later=1), "later is unknown to this linscore: a newer one"),
    ],
)
def test_a_damaged_series_says_where(done, tmp_path, change, message):
    data = json.loads(done[1].to_json())
    change(data)
    (tmp_path / "dynamics.json").write_text(json.dumps(data))
    with pytest.raises(LinscoreError, match=rf"no series of linscore: give another `out` \({message}"):
        Dynamics.load(tmp_path / "dynamics.json")
