"""Losses with spans left out; the oracle is transformers' own loss of a model whose blocks were made idle by hand."""

import pytest
import torch
from cut_models import doing_nothing
from tiny_models import FAMILIES, VOCABULARY, shared, tiny

from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreError
from linscore.spans import Span
from linscore.surgery.left_out import left_out_losses

pytestmark = pytest.mark.usefixtures("one_thread")
SPANS = [Span(1, 1), Span(0, 1), Span(1, 2)]


def packed(lengths=((3, 9), (1, 9), (2, 5))):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(3, VOCABULARY, shape, generator=generator)} for shape in lengths]


@torch.no_grad()
def mean_loss(model, batches):
    """Transformers' mean of each batch, weighted by the tokens that the batch predicts."""
    losses = [
        (model(row["input_ids"], labels=row["input_ids"]).loss, row["input_ids"][:, 1:].numel()) for row in batches
    ]
    return sum(float(loss) * tokens for loss, tokens in losses) / sum(tokens for _, tokens in losses)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_a_model_whose_blocks_are_idle(family):
    model, batches = shared(family), packed()
    found = left_out_losses(find_decoder(model), batches, SPANS)
    assert list(found) == [None, *SPANS]
    for span, loss in found.items():
        with doing_nothing(model, [] if span is None else list(span.blocks)):
            assert loss == pytest.approx(mean_loss(model, batches), rel=1e-5)
    assert len(set(found.values())) == len(found)


def test_batches_are_read_once_and_the_model_stays_as_it_is():
    model = tiny("gpt2").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    once = left_out_losses(find_decoder(model), iter(packed()), SPANS)
    assert model.training
    assert not any(block._forward_hooks for block in model.transformer.h)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert once == left_out_losses(find_decoder(tiny("gpt2")), [batch["input_ids"] for batch in packed()], SPANS)


def test_spans_that_are_not_there_and_empty_batches_are_refused():
    with pytest.raises(LinscoreError, match="no blocks 2-3, 7: choose from 0 to 2"):
        left_out_losses(find_decoder(tiny("llama")), packed(), [Span(1, 1), Span(2, 3), Span(7, 7)])
    with pytest.raises(LinscoreError, match="no token to predict"):
        left_out_losses(find_decoder(tiny("llama")), [], SPANS)


def test_padding_and_what_is_not_to_be_predicted_do_not_count():
    """Rows of 9 and 5 tokens in one batch are the rows by themselves; labels leave out what transformers leaves out."""
    model, ids = tiny("llama"), packed([(2, 9)])[0]["input_ids"]
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    alone = [{"input_ids": ids[:1]}, {"input_ids": ids[1:, :5]}]
    padded = left_out_losses(find_decoder(model), [{"input_ids": ids, "attention_mask": mask}], [])
    assert padded[None] == pytest.approx(mean_loss(model, alone), rel=1e-5)
    labels = ids.where(torch.arange(9) % 3 > 0, -100)
    found = left_out_losses(find_decoder(model), [{"input_ids": ids, "labels": labels}], [])
    assert found[None] == pytest.approx(model(ids, labels=labels).loss.item(), rel=1e-5)
