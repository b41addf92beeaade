"""Drop blocks, or attention and MLP of single blocks."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from linscore.decoder.find import Decoder, find_decoder
from linscore.errors import all_of
from linscore.spans import Span, Unit
from linscore.surgery.drop_blocks import drop_blocks
from linscore.surgery.linearize import replace_units

__all__ = ["drop", "drop_units"]


def drop(model: nn.Module, blocks: Collection[int | str | Span | Unit]) -> PreTrainedModel:
    """A new model of the same class without these blocks; `save_pretrained` makes a plain checkpoint of it.

    The given model stays as it is. The weights are copies on the same device and of the same dtype, so that training
    one model leaves the other alone; ties, frozen weights, modes and generation settings are kept, hooks are not.

    Where parts of blocks go ("3.mlp", "3.attention"), the copy is saved and loaded as one of `linearize`. What only
    served the part goes too, and an attention that is gone keeps no keys and values.

    Args:
        model: a decoder of transformers, whole and on one device.
        blocks: indices of the blocks that go, spans, or parts such as "3.mlp", in any order; the survivors are numbered
            from 0 again.

    Raises:
        LinscoreError: if an index is not there or given twice, if no block would be left, if the model is none of
            transformers', with adapters, quantized, spread over devices, or of a family whose structure depends on the
            index; for parts, if attention and MLP of its blocks cannot be told apart or do not run without each other.

    Examples:
        >>> smaller = linscore.drop(model, [3, 5])
        >>> smaller.config.num_hidden_layers, model.config.num_hidden_layers
        (4, 6)
    """
    all_of("blocks", blocks, int | str | Span | Unit, "whole numbers, or units such as 3.mlp")
    return drop_units(find_decoder(model), blocks)


def drop_units(
    decoder: Decoder, blocks: Collection[int | str | Span | Unit], *, share: bool = False
) -> PreTrainedModel:
    """The same, by models that hold the same tensors where they are to `share` them, and neither is changed then."""
    if all(isinstance(block, int) for block in blocks):
        return drop_blocks(decoder, blocks, share=share).model  # type: ignore[return-value, arg-type]
    return replace_units(decoder.model, dict.fromkeys(blocks), share=share)  # type: ignore[return-value]
