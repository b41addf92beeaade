"""What forms cost by a figure; the oracle takes it from the states themselves, in float64."""

import pytest
import torch
from decoders import decoder_of, states_of, sub_blocks_of
from tiny_models import VOCABULARY

from linscore.compression.choices import Form
from linscore.compression.figures import Figures
from linscore.compression.rows import unit_rows
from linscore.errors import LinscoreError
from linscore.spans import Unit

pytestmark = pytest.mark.usefixtures("one_thread")
MLP, ATTENTION = Unit.parse("1.mlp"), Unit.parse("1.attention")
IDS = torch.randint(3, VOCABULARY, (2, 24, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def rows():
    batches = [{"input_ids": ids, "folds": torch.full((24,), fold)} for fold, ids in enumerate(IDS)]
    return unit_rows(decoder_of("llama"), batches, sub_blocks_of("llama"), 2, print, gradients=False)


@pytest.fixture(scope="module")
def states():
    """What the MLP of block 1 reads and adds, `[n, d]` each."""
    found = states_of(decoder_of("llama"), IDS.flatten(0, 1), sub_blocks=sub_blocks_of("llama"))[1]
    return found.mlp_input.flatten(0, 1).double(), found.mlp.flatten(0, 1).double()


def test_what_a_unit_costs_that_is_left_out_is_shared_out_to_forms_by_what_they_miss(rows, states):
    x, delta = states
    influence = float((1 - torch.cosine_similarity(x, x + delta)).mean())
    figures = Figures(rows, "block_influence")
    assert figures.form(MLP, Form("drop")) == pytest.approx(influence, rel=1e-5)
    mean = float((delta - delta.mean(0)).square().sum() / delta.square().sum())
    assert figures.form(MLP, Form("mean")) == pytest.approx(influence * mean, rel=0.02)
    both = {MLP: Form("mean"), ATTENTION: Form("drop")}
    assert figures.choice(both) == figures.form(MLP, Form("mean")) + figures.form(ATTENTION, Form("drop"))


def test_linearity_says_what_an_affine_map_costs(rows, states):
    x, delta = (state - state.mean(0) for state in states)
    missed = delta - x @ torch.linalg.lstsq(x, delta).solution
    share = float(missed.square().sum() / (x + delta).square().sum())
    figures = Figures(rows, "linearity")
    assert figures.form(MLP, Form("affine")) == pytest.approx(share, rel=1e-3)
    assert figures.form(MLP, Form("drop")) > figures.form(MLP, Form("affine"))


def test_a_figure_that_was_not_collected_is_refused(rows):
    with pytest.raises(LinscoreError, match="no expected_loss without gradients"):
        Figures(rows, "expected_loss")
    with pytest.raises(LinscoreError, match="has no cka"):
        Figures(rows, "cka")
