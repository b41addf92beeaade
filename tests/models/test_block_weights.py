"""A model whose blocks come one at a time from its files, against the same model loaded whole."""

import shutil

import pytest
import torch
from decoders import states_of
from linear_models import random_map
from tiny_models import DEPTH, VOCABULARY, tiny

from linscore.decoder.block_by_block import BlockByBlock
from linscore.embedded.shipped import EMBEDDED, SHIPPED
from linscore.errors import LinscoreError
from linscore.models.load import load_pretrained
from linscore.surgery.linearize import linearize

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(4))


def saved(model, folder) -> str:
    """A checkpoint in several files, with a tokenizer."""
    model.save_pretrained(folder, max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED[EMBEDDED] / name, folder)
    return str(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mixtral"])  # of mixtral, experts are stored otherwise
def test_blocks_from_disk_are_those_of_the_model(family, dtype, tmp_path):
    name = saved(tiny(family), tmp_path)
    expected = states_of(load_pretrained(name, dtype=dtype).decoder, IDS)
    loaded = load_pretrained(name, dtype=dtype, placement="stream")
    blocks, state = loaded.decoder.blocks, None
    one = BlockByBlock(loaded.decoder, loaded.weights)
    for index in range(DEPTH):
        with one.at(index):
            assert [not any(p.is_meta for p in block.parameters()) for block in blocks].count(True) == 1
            state = one.run_block(index, state, (IDS, None, None))
        assert torch.equal(state, expected[index].y)
    assert all(p.is_meta for p in blocks.parameters())
    with one.after(len(one.decoder.blocks), state), torch.no_grad():
        logits = loaded.model(input_ids=IDS).logits
    assert torch.equal(logits, load_pretrained(name, dtype=dtype).model(input_ids=IDS).logits)


@pytest.mark.parametrize("placement", ["map", "stream"])
def test_a_model_with_linear_blocks_comes_in_pieces_too(placement, tmp_path):
    name = saved(linearize(tiny("llama"), {1: random_map()}), tmp_path)
    expected = states_of(load_pretrained(name).decoder, IDS)[DEPTH - 1].y
    loaded = load_pretrained(name, placement=placement)
    if placement == "map":
        found = states_of(loaded.decoder, IDS)[DEPTH - 1].y
    else:
        found, one = None, BlockByBlock(loaded.decoder, loaded.weights)
        for index in range(DEPTH):
            with one.at(index):
                found = one.run_block(index, found, (IDS, None, None))
    assert torch.equal(found, expected)


def test_a_placement_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(LinscoreError, match="`placement`"):
        load_pretrained(saved(tiny("llama"), tmp_path), placement="nowhere")
