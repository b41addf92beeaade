import pytest
import torch
from tiny_models import shared, tiny
from transformers import AutoModelForCausalLM

from linscore.decoder.find import find_decoder
from linscore.models.on_paper import Held, loss_on_paper, pass_on_paper, sizes_on_paper

MATRICES = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48  # of a block of the tiny llama: q and o, k and v of 2 heads, MLP


def on_paper(family, **changes):
    config = tiny(family, **changes).config
    with torch.device("meta"):
        return find_decoder(AutoModelForCausalLM.from_config(config))


def test_sizes_of_a_llama_are_those_worked_out_by_hand():
    sizes = sizes_on_paper(on_paper("llama"))
    block = MATRICES + 2 * 32
    assert (sizes.largest_block, sizes.blocks) == (4 * block, 3 * 4 * block)
    assert sizes.parameters == 3 * block + 2 * 64 * 32 + 32
    buffers = sizes.weights - 4 * sizes.parameters  # rotary frequencies
    assert 0 <= buffers <= 2 * 4 * 4
    assert sizes.outside == 4 * (2 * 64 * 32 + 32) + buffers


def test_tied_embeddings_are_counted_once():
    tied, apart = (sizes_on_paper(on_paper("llama", tie_word_embeddings=tie)) for tie in (True, False))
    assert apart.parameters - tied.parameters == 64 * 32
    assert apart.weights - tied.weights == 4 * 64 * 32


def test_flop_of_a_pass_are_those_worked_out_by_hand():
    sequences, length = 2, 16
    attention = 2 * 2 * sequences * 4 * length * length * 8  # scores and their products with v, of 4 heads of 8
    products = 2 * sequences * length * MATRICES
    assert pass_on_paper(on_paper("llama"), sequences, length).flops == 3 * (products + attention)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_a_pass_on_paper_holds_what_one_in_memory_does(family):
    decoder, ids = find_decoder(shared(family)), torch.zeros(2, 32, dtype=torch.long)
    with torch.no_grad(), Held([*decoder.model.parameters(), *decoder.model.buffers()]) as held:
        decoder.backbone(ids, use_cache=False)
    planned = pass_on_paper(on_paper(family), 2, 32).bytes
    assert planned == pytest.approx(held.peak, rel=0.25)  # masks, and how experts are computed, differ by device


def test_the_most_that_lives_at_a_time_is_counted():
    kept = torch.zeros(1000)
    with Held([kept]) as held:
        first = kept + 1
        second = first * 2
        del first
        third = second - 1
        del second, third
        torch.zeros(500)
    assert held.peak == 8000


def test_a_loss_holds_logits_and_their_logarithms():
    tokens = 7
    assert loss_on_paper(on_paper("llama"), tokens) == 2 * 4 * 64 * tokens + 8 * tokens + 4 + 4
