"""Reading the residual stream of a decoder: where its blocks are, and what enters and leaves each of them.

A forward hook on every block hands over x (entering) and y (leaving, before the model's final norm) the moment the
block has run, so no more than one block's states are held. No family is known by name: blocks are found by shape.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.sub_blocks import BlockStates, SubBlocks, hook_block, search_sub_blocks
from linscore.errors import LinscoreError

__all__ = [
    "BlockStates",
    "Decoder",
    "SubBlocks",
    "check_causal",
    "find_decoder",
    "find_sub_blocks",
    "run",
    "watch",
    "weight_sample",
]

SAMPLED = 4  # matrices of a block of which one weight is kept to tell models apart


@dataclass(frozen=True)
class Decoder:
    """Where a decoder keeps its blocks.

    Attributes:
        model: the model as given.
        backbone: what to call: the model without its language-model head.
        blocks: the decoder blocks, in the order they run.
        path: where ``blocks`` is in ``model``, e.g. ``"model.layers"``.
        width: d, the number of features of the residual stream.
        name: ``config.name_or_path``, or the class of the model.
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
            blocks to look for.

    Raises:
        LinscoreError: if the model is an encoder-decoder, or has no such list, several, or no token embedding.
    """
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
    embedding = _embedding(backbone)
    if embedding is None:
        raise LinscoreError(f"{name} has no token embedding (nn.Embedding): give a decoder-only language model")
    width = getattr(config, "hidden_size", None) or embedding.embedding_dim
    return Decoder(model, backbone, lists[0], _paths(model)[lists[0]], width, name)


def run(decoder: Decoder, input_ids: Tensor, attention_mask: Tensor | None = None) -> None:
    """Runs the blocks on a batch, for whoever watches: no head, no cache, no gradients, no dropout.

    Padding on either side leaves the states of real tokens as they are without it; those of padding mean nothing.

    Args:
        decoder: from ``find_decoder``.
        input_ids: [batch, seq], integers, on any device.
        attention_mask: [batch, seq], 1 for tokens and 0 for padding; None where nothing is padded.

    Raises:
        LinscoreError: if the shapes do not fit, or the batch is padded and the model takes no mask.
    """
    if input_ids.ndim != 2 or (attention_mask is not None and attention_mask.shape != input_ids.shape):
        raise LinscoreError("input_ids and attention_mask must have one shape, [batch, seq]")
    accepted = inspect.signature(decoder.backbone.forward).parameters
    inputs: dict[str, Any] = {"input_ids": input_ids}
    # Without a mask, attention kernels use their causal fast path.
    if attention_mask is not None and not attention_mask.all():
        inputs |= _padding(decoder, attention_mask, accepted)
    device = _input_device(decoder)
    inputs = {key: value.to(device) for key, value in inputs.items()}
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    # Hugging Face models differ in the order of their arguments, other models in the name of the first.
    tokens = () if "input_ids" in accepted else (inputs.pop("input_ids"),)
    # no_grad, not inference_mode: accumulators born in a callback must stay ordinary tensors.
    with torch.no_grad(), evaluating(decoder.backbone):
        decoder.backbone(*tokens, **inputs)


def check_causal(decoder: Decoder) -> None:
    """Makes sure, by trying, that tokens do not see later tokens and that every block runs.

    The last of 8 tokens is changed: in a decoder the states of the other 7 stay the same.

    Raises:
        LinscoreError: if they change, if a block does not run, or if states are not [batch, seq, width].
    """
    tokens = _probe_tokens(decoder)
    changed = tokens.clone()
    vocabulary = _embedding(decoder.backbone).num_embeddings  # type: ignore[union-attr]
    changed[:, -1] = (changed[:, -1] + vocabulary // 2) % vocabulary
    before, after = _states(decoder, tokens), _states(decoder, changed)
    for index in range(len(decoder.blocks)):
        if index not in before:
            raise LinscoreError(f"{decoder.name}: block {index} of {decoder.path} does not run: mend the configuration")
        for old, new in ((before[index].x, after[index].x), (before[index].y, after[index].y)):
            if old.shape != (*tokens.shape, decoder.width):
                raise LinscoreError(
                    f"{decoder.name}: states around block {index} have shape {list(old.shape)} where [batch, seq, "
                    f"{decoder.width}] was expected: this residual stream cannot be scored"
                )
            # Not zero: the experts of a mixture round differently when a token more or less comes to them.
            if _change(old[:, :-1], new[:, :-1]) > max(1e-4, 4 * torch.finfo(old.dtype).eps):
                raise LinscoreError(
                    f"{decoder.name} is not a decoder: at block {index} tokens see later tokens; give a causal model"
                )


@contextmanager
def watch(
    decoder: Decoder,
    callback: Callable[[int, BlockStates], None],
    blocks: Collection[int] | None = None,
    sub_blocks: SubBlocks | None = None,
) -> Iterator[None]:
    """Calls ``callback(index, states)`` each time a block has run, until the context is left.

    Nothing here keeps a tensor after the callback has returned.

    Args:
        decoder: from ``find_decoder``.
        callback: must not modify the states, which are the model's own tensors.
        blocks: indices of the blocks to watch; all by default.
        sub_blocks: from ``find_sub_blocks``, to be given the contributions of attention and MLP as well.

    Raises:
        LinscoreError: if a block or a path inside it does not exist.
    """
    count = len(decoder.blocks)
    wanted = range(count) if blocks is None else sorted(set(blocks))
    missing = [index for index in wanted if not 0 <= index < count]
    if missing:
        raise LinscoreError(f"{decoder.name} has no blocks {missing}: choose from 0 to {count - 1}")
    with ExitStack() as hooks:
        for index in wanted:
            hook_block(hooks, decoder.blocks[index], partial(callback, index), sub_blocks)
        yield


def find_sub_blocks(decoder: Decoder) -> SubBlocks:
    """Finds which modules give the contributions of attention and MLP, by trying on a few tokens.

    Raises:
        LinscoreError: if no pair adds up to what the blocks add (post-norm OPT) or there is no MLP (Mamba).
    """
    tokens = _probe_tokens(decoder)
    return search_sub_blocks(decoder.name, decoder.blocks, lambda pair: _states(decoder, tokens, pair))


def weight_sample(decoder: Decoder) -> list[float]:
    """One weight of each of the first matrices of every block; 0 where it is not in memory."""
    matrices = (islice((p for p in block.parameters() if p.ndim > 1), SAMPLED) for block in decoder.blocks)
    middles = [matrix.detach().flatten()[matrix.numel() // 2] for matrix in chain.from_iterable(matrices)]
    return [0.0 if middle.is_meta else float(middle) for middle in middles]


def _backbones(model: nn.Module) -> list[nn.Module]:
    """Where blocks may be, narrowest first: the text decoder of a multimodal model, the model without head, all."""
    get_decoder = getattr(model, "get_decoder", None)
    candidates = [get_decoder() if callable(get_decoder) else None, getattr(model, "base_model", None), model]
    return [candidate for candidate in candidates if isinstance(candidate, nn.Module)]


def _block_lists(root: nn.Module, depth: int | None) -> list[nn.ModuleList]:
    """ModuleLists of like blocks, of length ``depth`` if there are such, without those inside another of them."""
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


def _embedding(backbone: nn.Module) -> nn.Embedding | None:
    """The token embedding, seen through wrappers such as adapters."""
    getter = getattr(backbone, "get_input_embeddings", None)
    root = (getter() if callable(getter) else None) or backbone
    return next((module for module in root.modules() if isinstance(module, nn.Embedding)), None)


def _input_device(decoder: Decoder) -> torch.device:
    """The device of the token embedding; the CPU if it is offloaded, since accelerate then moves the inputs itself."""
    weight = _embedding(decoder.backbone).weight  # type: ignore[union-attr]
    return torch.device("cpu") if weight.is_meta else weight.device


def _padding(decoder: Decoder, attention_mask: Tensor, accepted: Collection[str]) -> dict[str, Tensor]:
    """The mask, and positions that count real tokens only, where the model lets us say them."""
    if "attention_mask" not in accepted:
        raise LinscoreError(f"{decoder.name} takes no attention_mask: give texts of one length, without padding")
    if "position_ids" not in accepted:
        return {"attention_mask": attention_mask}
    positions = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
    return {"attention_mask": attention_mask, "position_ids": positions}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; modules that were frozen in evaluation mode stay so."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _probe_tokens(decoder: Decoder) -> Tensor:
    """Eight token ids spread over the vocabulary, [1, 8]."""
    vocabulary = _embedding(decoder.backbone).num_embeddings  # type: ignore[union-attr]
    return (torch.arange(8) * max(1, vocabulary // 8) % vocabulary)[None]


def _states(decoder: Decoder, tokens: Tensor, sub_blocks: SubBlocks | None = None) -> dict[int, BlockStates]:
    """Every block's states on a few tokens."""
    states: dict[int, BlockStates] = {}
    with watch(decoder, states.__setitem__, sub_blocks=sub_blocks):
        run(decoder, tokens)
    return states


def _change(old: Tensor, new: Tensor) -> float:
    """Relative change of the median token, [1, seq, d] each: one token that goes to another expert does not count."""
    old, new = (torch.where(old.isfinite() & new.isfinite(), t, 0).float() for t in (old, new))
    return float(((new - old).norm(dim=-1) / old.norm(dim=-1).clamp_min(1e-30)).median())
