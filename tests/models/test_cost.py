"""Parameters and FLOPs of blocks, counted by hand."""

from linear_models import random_map
from tiny_models import tiny

from linscore.decoder.find import find_decoder
from linscore.models.cost import block_costs
from linscore.surgery.linearize import linearize


def test_costs_are_those_of_the_blocks_themselves():
    model, fitted = tiny("llama"), random_map()
    before, after = block_costs(find_decoder(model)), block_costs(find_decoder(linearize(model, {1: fitted})))
    attention, mlp = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 48
    assert before[1].parameters == attention + mlp + 2 * 32
    assert before[1].flops_per_token == 2 * (attention + mlp) + 4 * 8 * 32  # queries × keys and weights × values
    assert (after[1].parameters, after[1].flops_per_token) == (32 * 32 + 32, 2 * 32 * 32)
    assert after[0] == before[0]


def test_of_a_mixture_only_the_experts_that_run_count():
    cost = block_costs(find_decoder(tiny("mixtral")))[1]
    attention, expert, router = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 48, 32 * 4
    assert cost.parameters == attention + 4 * expert + router + 2 * 32
    assert cost.flops_per_token == 2 * (attention + 2 * expert + router) + 4 * 8 * 32
