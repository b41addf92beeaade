"""Where a decoder keeps its blocks. No family is known by name: they are found by shape."""

import math
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from torch import nn

from linscore.decoder.wrapped import unwrapped
from linscore.errors import LinscoreError

__all__ = ["Decoder", "find_decoder", "token_embedding", "weight_sample"]

SAMPLED = 4  # matrices of a block of which one weight is kept to tell models apart


@dataclass(frozen=True)
class Decoder:
    """Where a decoder keeps its blocks.

    Attributes:
        model: the model, without what was wrapped around it.
        backbone: what to call: the model without its language-model head.
        blocks: the decoder blocks, in the order they run.
        path: where `blocks` is in `model`, e.g. `"model.layers"`.
        width: d, the number of features of the residual stream.
        name: `config.name_or_path`, or the class of the model.
    """

    model: nn.Module
    backbone: nn.Module
    blocks: nn.ModuleList
    path: str
    width: int
    name: str


def find_decoder(model: nn.Module) -> Decoder:
    """Finds the decoder blocks of a model: the outermost ModuleList of like blocks.

    Args:
        model: a decoder, with or without language-model head; its Hugging Face configuration, if any, says how many
            blocks to look for. Wrappers such as torch.compile's are looked through.

    Raises:
        LinscoreError: if the model is an encoder-decoder, or has no such list, several, or no token embedding.
    """
    model = unwrapped(model)
    config: Any = getattr(model, "config", None)
    name = getattr(config, "name_or_path", None) or type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise LinscoreError(f"{name} is an encoder-decoder: give a decoder-only language model")
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    depth = getattr(config, "num_hidden_layers", None)
    backbone, lists = next(
        ((root, lists) for root in _backbones(model) if (lists := _block_lists(root, depth))), (model, [])
    )
    if len(lists) != 1:
        raise LinscoreError(f"{name}: {_what_was_found(model, lists, depth)}; give a decoder-only language model")
    embedding = token_embedding(backbone)
    if embedding is None:
        raise LinscoreError(f"{name} has no token embedding (nn.Embedding): give a decoder-only language model")
    width = getattr(config, "hidden_size", None) or embedding.embedding_dim
    return Decoder(model, backbone, lists[0], _paths(model)[lists[0]], width, name)


def weight_sample(decoder: Decoder) -> list[float] | None:
    """One weight of each of the first matrices of every block; 0 where it is not in memory or not finite.

    None where single weights cannot be read: quantized ones have operations of their own, and few of them.
    """
    matrices = (islice((p for p in block.parameters() if p.ndim > 1), SAMPLED) for block in decoder.blocks)
    try:
        middles = [matrix.detach().flatten()[matrix.numel() // 2] for matrix in chain.from_iterable(matrices)]
        weights = [0.0 if middle.is_meta else float(middle) for middle in middles]
    except Exception:  # whatever a class of tensors raises: a score does not fail for want of this
        return None
    return [weight if math.isfinite(weight) else 0.0 for weight in weights]


def _backbones(model: nn.Module) -> list[nn.Module]:
    """Where blocks may be, narrowest first: the text decoder of a multimodal model, the model without head, all."""
    get_decoder = getattr(model, "get_decoder", None)
    candidates = [get_decoder() if callable(get_decoder) else None, getattr(model, "base_model", None), model]
    return [candidate for candidate in candidates if isinstance(candidate, nn.Module)]


def _block_lists(root: nn.Module, depth: int | None) -> list[nn.ModuleList]:
    """ModuleLists of like blocks, of length `depth` if there are such, without those inside another of them."""
    lists = [m for m in root.modules() if isinstance(m, nn.ModuleList) and _are_alike(m, depth)]
    lists = [blocks for blocks in lists if len(blocks) == depth] or lists
    inner = {id(module) for blocks in lists for module in blocks.modules() if module is not blocks}
    return [blocks for blocks in lists if id(blocks) not in inner]


def _are_alike(blocks: nn.ModuleList, depth: int | None) -> bool:
    """Whether these can be decoder blocks: different modules of one class, or of subclasses of one of theirs."""
    several = len(blocks) >= 2 or len(blocks) == depth == 1
    distinct = len({id(block) for block in blocks}) == len(blocks)  # a shared block would be seen several times
    return several and distinct and any(all(isinstance(b, kind) for b in blocks) for kind in map(type, blocks))


def _what_was_found(model: nn.Module, lists: list[nn.ModuleList], depth: int | None) -> str:
    """What was looked for and what was found instead, for the message of an error."""
    modules = lists or [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    paths = _paths(model)
    found = [f"{paths[m]} ({len(m)} × {'/'.join(sorted({type(b).__name__ for b in m}))})" for m in modules]
    return f"looked for one ModuleList of {depth or 'two or more'} like blocks, found {', '.join(found) or 'none'}"


def _paths(model: nn.Module) -> dict[nn.Module, str]:
    return {module: path for path, module in model.named_modules()}


def token_embedding(backbone: nn.Module) -> nn.Embedding | None:
    """The token embedding, seen through wrappers such as adapters."""
    getter = getattr(backbone, "get_input_embeddings", None)
    root = (getter() if callable(getter) else None) or backbone
    return next((module for module in root.modules() if isinstance(module, nn.Embedding)), None)
