"""What loads a model as its configuration says: its class, its dtype, and where its weights go."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from linscore.decoder.block_by_block import INSTEAD
from linscore.decoder.find import find_decoder
from linscore.errors import LinscoreError, one_of
from linscore.models.linear_model import LinearizedForCausalLM
from linscore.models.pretrained import Checkpoint

if TYPE_CHECKING:  # it needs accelerate, which only models in pieces need
    from linscore.models.block_weights import BlockWeights

__all__ = ["dtype_of", "load_in_pieces", "load_whole", "loader_of"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_whole(
    checkpoint: Checkpoint, dtype: str, device: torch.device, encoder: bool = False
) -> tuple[Any, torch.dtype | None, PreTrainedModel]:
    """Configuration, dtype of the checkpoint, and model, in evaluation mode on the CPU; `device` is where it goes."""
    config = checkpoint.config()
    stored = config.get_text_config().dtype
    model = checkpoint.model(loader_of(config, encoder), config, dtype_of(dtype, config, device))
    return config, stored, model.eval()


def load_in_pieces(
    checkpoint: Checkpoint, dtype: str, device: torch.device, placement: str, encoder: bool
) -> tuple[Any, torch.dtype | None, PreTrainedModel, BlockWeights | None]:
    """The same of a model that is not whole on one device, and the weights of the blocks that it came without.

    Raises:
        LinscoreError: for quantized weights that are to stay on disk.
    """
    from linscore.models.block_weights import BlockWeights, on_disk

    config = checkpoint.config()
    loader, stored = loader_of(config, encoder), config.get_text_config().dtype
    scratch = TemporaryDirectory(prefix="weights-")
    streamed = placement == "stream"
    if streamed and getattr(config, "quantization_config", None) is not None:
        raise LinscoreError(f"{checkpoint.source} is quantized, and such weights are not read block by block{INSTEAD}")
    device_map = on_disk(find_decoder(checkpoint.empty(loader, config)), device) if streamed else "auto"
    where = {"device_map": device_map, "offload_folder": scratch.name}
    model = checkpoint.model(loader, config, dtype_of(dtype, config, device), **where).eval()
    model.offload_folder = scratch  # which is there for as long as the model is
    return config, stored, model, BlockWeights(find_decoder(model), device) if streamed else None


def loader_of(config: Any, encoder: bool = False) -> Any:
    """What loads the decoder that `config` describes, together with its vision tower where the family has no other."""
    if encoder:
        return AutoModel
    if hasattr(config, "linscore"):
        return LinearizedForCausalLM
    kind = config.model_type
    multimodal = kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForMultimodalLM if multimodal else AutoModelForCausalLM


def dtype_of(dtype: str, config: object, device: torch.device) -> torch.dtype | str:
    """What a model is to be loaded in, as `load_pretrained` says; "auto": as it is stored."""
    one_of("dtype", dtype, DTYPES)
    if dtype == "auto":
        stored = getattr(config, "dtype", None)
        return torch.float32 if stored is torch.float16 and device.type == "cpu" else "auto"
    return getattr(torch, dtype)
