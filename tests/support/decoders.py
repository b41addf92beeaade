"""Decoders that tests read the residual stream of, and what a watch of them saw."""

from functools import cache

import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, shared
from torch import Tensor, nn

from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.run import run, watch
from linscore.decoder.states import BlockStates, SubBlocks
from linscore.decoder.sub_blocks import find_sub_blocks

PATHS = {
    **dict.fromkeys(["gpt2", "bloom", "gptj", "gpt_neo", "falcon"], "transformer.h"),
    "mpt": "transformer.blocks",
    "opt": "model.decoder.layers",
    "opt_350m": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
    "mamba": "backbone.layers",
    "mamba2": "backbone.layers",
}
UNSPLIT = {"opt_350m", "mamba", "mamba2"}
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def decoder_of(family: str) -> Decoder:
    return find_decoder(shared(family))


@cache
def sub_blocks_of(family: str) -> SubBlocks:
    return find_sub_blocks(decoder_of(family))


def some_tokens(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def states_of(decoder: Decoder, *inputs: Tensor, sub_blocks: SubBlocks | None = None) -> dict[int, BlockStates]:
    states: dict[int, BlockStates] = {}
    with watch(decoder, states.__setitem__, sub_blocks=sub_blocks):
        run(decoder, *inputs)
    return states


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class PlainDecoder(nn.Module):
    """A causal running mean over tokens, without configuration, cache or mask."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        for block in self.blocks:
            h = block(h.cumsum(1) / torch.arange(1, h.shape[1] + 1)[:, None])
        return h


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 64}
T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "vocab_size": 64}
