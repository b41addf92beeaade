"""Llamas with random weights, their text, and the two jobs that are compared: a plain forward pass and scoring."""

from __future__ import annotations

import torch
from shapes import DEVICE, LlamaShape
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from linscore import Collector, Moments, find_decoder
from linscore.machine.kernel_cases import product_dtype
from linscore.machine.timing import rates

FORWARD = "forward without LM head"
SINK = 0  # the token that every sequence begins with
SINK_LENGTH = 1000  # times the other tokens' states
Text = list[dict[str, torch.Tensor]]


def build(shape: LlamaShape, dtype: torch.dtype, blocks: int | None = None) -> PreTrainedModel:
    """The decoder, its weights made on the device; the usual small initialization keeps the states finite."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=blocks or shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.sequence,
    )
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False).eval()


def batches(shape: LlamaShape) -> Text:
    """Random tokens, each batch of one fold, as the command line makes them."""
    ids = torch.randint(shape.vocabulary, (shape.sequences, shape.sequence), generator=torch.Generator().manual_seed(0))
    parts = enumerate(ids.split(shape.batch))
    return [{"input_ids": part, "folds": torch.full((len(part),), index % 2)} for index, part in parts]


@torch.no_grad()
def add_sinks(model: PreTrainedModel, text: Text) -> None:
    """Give the decoder what trained ones have: a first token whose state is far longer than the rest, in every block.

    Random weights make none, and without heavy rows scoring would look cheaper than it is.
    """
    model.get_input_embeddings().weight[SINK] *= SINK_LENGTH
    for batch in text:
        batch["input_ids"][:, 0] = SINK


@torch.no_grad()
def forward(model: PreTrainedModel, text: Text) -> None:
    """The blocks and nothing else: no language-model head, which scoring does not run either."""
    for batch in text:
        model.model(input_ids=batch["input_ids"].to(DEVICE), use_cache=False)


def collect(model: PreTrainedModel, text: Text) -> dict[str, Moments]:
    """The streaming part of scoring: every block's moments, before anything is solved."""
    collector = Collector(find_decoder(model))
    for batch in text:
        collector.add(batch)
    return collector.moments


def least_seconds(shape: LlamaShape, dtype: torch.dtype, blocks: int, forward_seconds: float) -> float:
    """The floor of scoring: the forward pass as measured, and 3d² FLOP per block and token at the matrix rate."""
    flop = 3 * shape.width**2 * shape.tokens * blocks
    return forward_seconds + flop / rates(DEVICE, product_dtype(dtype, DEVICE)).matrix
