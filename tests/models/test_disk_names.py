"""Tensors that are called one thing on disk and another in memory, for families that rename them as they are loaded."""

import pytest
import torch
from linear_models import logits, random_map
from multimodal_models import MULTIMODAL, multimodal
from reloading import linear_blocks, load_elsewhere
from safetensors import safe_open
from tiny_models import VOCABULARY, tiny

from linscore import Span, drop
from linscore.models.load import load
from linscore.surgery.linearize import linearize

pytestmark = pytest.mark.usefixtures("one_thread", "own_module_cache")

# How the checkpoints on the Hub call them, where that is not what transformers calls them in memory.
PUBLISHED = {
    "gpt_neox": "embed_out.weight",
    "mixtral": "model.layers.2.block_sparse_moe.experts.3.w2.weight",
}


def text_tokens() -> torch.Tensor:
    """None that marks an image."""
    return torch.randint(3, VOCABULARY - 4, (2, 10), generator=torch.Generator().manual_seed(1))


def names_in(folder) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.slow
@pytest.mark.parametrize("family", PUBLISHED)
def test_a_linearized_checkpoint_has_the_names_of_its_family(family, tmp_path):
    tiny(family).save_pretrained(tmp_path / "plain")
    linear = linearize(load(tmp_path / "plain"), {0: random_map()})
    linear.save_pretrained(tmp_path / "linear")
    assert PUBLISHED[family] in names_in(tmp_path / "plain") & names_in(tmp_path / "linear")
    expected = logits(linear, text_tokens())
    for loaded in (load(tmp_path / "linear"), load_elsewhere(tmp_path / "linear")):
        assert torch.equal(logits(loaded, text_tokens()), expected)
        assert linear_blocks(loaded) == [0]


@pytest.mark.slow
@pytest.mark.parametrize("family", MULTIMODAL)
def test_a_cut_multimodal_model_is_read_as_it_was_saved(family, tmp_path):
    whole = multimodal(family)
    whole.save_pretrained(tmp_path / "whole")
    model = load(tmp_path / "whole")
    assert torch.equal(logits(model, text_tokens()), logits(whole, text_tokens()))
    cuts = {
        "linear": linearize(whole, {1: random_map()}),
        "linear_span": linearize(model, {Span(1, 2): random_map()}),
        "dropped": drop(model, [1]),
    }
    for name, cut in cuts.items():
        cut.save_pretrained(tmp_path / name)
        assert torch.equal(logits(load(tmp_path / name), text_tokens()), logits(cut, text_tokens())), name
