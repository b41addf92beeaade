"""Where a decoder keeps its blocks. No family is known by name: they are found by shape."""

import math
import reprlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.wrapped import is_sharded, unwrapped
from linscore.errors import LinscoreError

__all__ = ["Decoder", "context_of", "find_decoder", "token_embedding", "weight_sample"]

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
        tried: what trying has shown about padded batches, see `padding_form`.
    """

    model: nn.Module
    backbone: nn.Module
    blocks: nn.ModuleList
    path: str
    width: int
    name: str
    tried: dict[tuple[str, ...], tuple[str, ...] | None] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def positions(self) -> int | None:
        """How many positions the model has learned or stored; None where it computes them, or needs none."""
        embedding = token_embedding(self.backbone)
        beside = next((m for m in self.backbone.modules() if any(c is embedding for c in m.children())), self.backbone)
        tables = (m for name, m in beside.named_children() if isinstance(m, nn.Embedding) and _says_positions(name))
        sizes = [table.num_embeddings - _unused_rows(table) for table in tables]
        stored = (named for module in self.backbone.modules() for named in {**module._buffers, **vars(module)}.items())
        sizes += [len(table) for name, table in stored if _says_positions(name) and isinstance(table, Tensor)]
        return min(sizes, default=None)

    @property
    def context(self) -> int:
        """The longest sequence that the model was made for; 0 where it does not say."""
        return context_of(getattr(self.model, "config", None))


def context_of(config: Any) -> int:
    """The longest sequence that a model of this configuration was made for; 0 where it does not say."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(config, "max_position_embeddings", 0) or 0


def find_decoder(model: nn.Module) -> Decoder:
    """Finds the decoder blocks of a model: the outermost ModuleList of like blocks.

    Blocks of several classes are blocks too where they are as many as the configuration says (Jamba, Zamba): what each
    of them takes and gives is for `check_causal` to try. Of several lists, the one that runs on token ids is meant.

    Args:
        model: a decoder, with or without language-model head; its Hugging Face configuration, if any, says how many
            blocks to look for. Wrappers such as torch.compile's are looked through.

    Raises:
        LinscoreError: if the model is an encoder-decoder, or has no such list, several, or no token embedding.

    Examples:
        >>> decoder = linscore.find_decoder(model)
        >>> decoder.path, len(decoder.blocks), decoder.width
        ('model.layers', 6, 16)
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        raise LinscoreError(f"{reprlib.repr(model)} is no model: load one by `linscore.load` first")
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
    if len(lists) > 1:
        lists = _that_run(backbone, lists) or lists
    if len(lists) != 1:
        why = (
            "which of them carries the residual stream cannot be told"
            if lists
            else "give a decoder-only language model"
        )
        raise LinscoreError(f"{name}: {_what_was_found(model, lists, depth)}; {why}")
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
    if is_sharded(model):  # what is inside lacks its weights when it is called by itself
        return [model]
    get_decoder = getattr(model, "get_decoder", None)
    candidates = [get_decoder() if callable(get_decoder) else None, getattr(model, "base_model", None), model]
    return [candidate for candidate in candidates if isinstance(candidate, nn.Module)]


def _block_lists(root: nn.Module, depth: int | None) -> list[nn.ModuleList]:
    """ModuleLists that can be the blocks, without those inside another of them: the best kind there is.

    Like blocks, as many as `depth` says; blocks of several classes, as many; like blocks.
    """
    lists = [m for m in root.modules() if isinstance(m, nn.ModuleList) and _are_distinct(m, depth)]
    deep = [blocks for blocks in lists if len(blocks) == depth]
    found = list(filter(_are_alike, deep)) or deep or list(filter(_are_alike, lists))
    inner = {id(module) for blocks in found for module in blocks.modules() if module is not blocks}
    return [blocks for blocks in found if id(blocks) not in inner]


def _are_distinct(blocks: nn.ModuleList, depth: int | None) -> bool:
    """Whether these are several modules, each once: a shared block would be seen several times."""
    several = len(blocks) >= 2 or len(blocks) == depth == 1
    return several and len({id(block) for block in blocks}) == len(blocks)


def _are_alike(blocks: nn.ModuleList) -> bool:
    """Whether these are of one class, or of subclasses of one of theirs."""
    return any(all(isinstance(block, kind) for block in blocks) for kind in map(type, blocks))


def _that_run(backbone: nn.Module, lists: list[nn.ModuleList]) -> list[nn.ModuleList]:
    """Those whose blocks all run on a token id: beside a decoder's there may be those of a vision or audio tower."""
    embedding = token_embedding(backbone)
    if embedding is None:
        return []
    seen: set[int] = set()
    with ExitStack() as hooks:
        for block in chain.from_iterable(lists):
            hooks.callback(block.register_forward_pre_hook(lambda block, _args: seen.add(id(block))).remove)
        tokens = torch.zeros(1, 2, dtype=torch.long, device=embedding.weight.device)
        with torch.no_grad(), suppress(Exception):  # what does not run is refused as what was found
            backbone(tokens)
    return [blocks for blocks in lists if all(id(block) in seen for block in blocks)]


def _what_was_found(model: nn.Module, lists: list[nn.ModuleList], depth: int | None) -> str:
    """What was looked for and what was found instead, for the message of an error."""
    modules = lists or [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    paths = _paths(model)
    found = [f"{paths[m]} ({len(m)} × {'/'.join(sorted({type(b).__name__ for b in m}))})" for m in modules]
    return f"looked for one ModuleList of {depth or 'two or more'} like blocks, found {', '.join(found) or 'none'}"


def _unused_rows(table: nn.Embedding) -> int:
    """Rows before the first position: OPT and BART name an offset, RoBERTa begins behind the padding id."""
    return int(getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1))


def _says_positions(name: str) -> bool:
    return name in ("wpe", "embed_positions", "position_embeddings")


def _paths(model: nn.Module) -> dict[nn.Module, str]:
    return {module: path for path, module in model.named_modules()}


def token_embedding(backbone: nn.Module) -> nn.Embedding | None:
    """The token embedding, seen through wrappers such as adapters."""
    getter = getattr(backbone, "get_input_embeddings", None)
    root = (getter() if callable(getter) else None) or backbone
    return next((module for module in root.modules() if isinstance(module, nn.Embedding)), None)
