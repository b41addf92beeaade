"""Running a decoder's blocks for whoever watches, without head, cache, gradients or dropout.

A forward hook on every block hands over x (entering) and y (leaving, before the model's final norm) the moment the
block has run, so no more than one block's states are held.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.find import Decoder, token_embedding
from linscore.decoder.in_use import in_use
from linscore.decoder.states import BlockStates, SubBlocks, entering_state, hook_block
from linscore.errors import LinscoreError


def run(decoder: Decoder, input_ids: Tensor, attention_mask: Tensor | None = None) -> None:
    """Runs the blocks on a batch, for whoever watches: no head, no cache, no gradients, no dropout.

    Padding on either side leaves the states of real tokens as they are without it; those of padding mean nothing.

    Args:
        decoder: from `find_decoder`.
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
    with torch.no_grad(), evaluating(decoder.backbone), uncompiled():
        decoder.backbone(*tokens, **inputs)


def check_causal(decoder: Decoder) -> None:
    """Makes sure, by trying, that tokens do not see later tokens and that every block runs.

    The last of 8 tokens is changed: in a decoder the states of the other 7 stay the same.

    Raises:
        LinscoreError: if they change, if a block does not run, or if states are not [batch, seq, width].
    """
    tokens = probe_tokens(decoder)
    changed = tokens.clone()
    vocabulary = token_embedding(decoder.backbone).num_embeddings  # type: ignore[union-attr]
    changed[:, -1] = (changed[:, -1] + vocabulary // 2) % vocabulary
    before, after = states_on(decoder, tokens), states_on(decoder, changed)
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
    """Calls `callback(index, states)` each time a block has run, until the context is left.

    Nothing here keeps a tensor after the callback has returned.

    Args:
        decoder: from `find_decoder`.
        callback: must not modify the states, which are the model's own tensors.
        blocks: indices of the blocks to watch; all by default.
        sub_blocks: from `find_sub_blocks`, to be given the contributions of attention and MLP as well.

    Raises:
        LinscoreError: if a block or a path inside it does not exist, or another thread uses the decoder.
    """
    count = len(decoder.blocks)
    wanted = range(count) if blocks is None else sorted(set(blocks))
    missing = [index for index in wanted if not 0 <= index < count]
    if missing:
        raise LinscoreError(f"{decoder.name} has no blocks {missing}: choose from 0 to {count - 1}")
    with in_use(decoder), ExitStack() as hooks:
        for index in wanted:
            hook_block(hooks, decoder.blocks[index], partial(callback, index), sub_blocks)
        yield


def _input_device(decoder: Decoder) -> torch.device:
    """The device of the token embedding; the CPU if it is offloaded, since accelerate then moves the inputs itself."""
    weight = token_embedding(decoder.backbone).weight  # type: ignore[union-attr]
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


@contextmanager
def bypass(decoder: Decoder, blocks: Collection[int]) -> Iterator[None]:
    """Runs these blocks without effect, for as long as the context lasts: what enters them leaves them."""

    def hand_through(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        x = entering_state(args, kwargs)
        return x if isinstance(output, Tensor) else (x, *output[1:])

    with in_use(decoder), uncompiled(), ExitStack() as hooks:
        for index in blocks:
            hooks.callback(decoder.blocks[index].register_forward_hook(hand_through, with_kwargs=True).remove)
        yield


def uncompiled() -> AbstractContextManager[None]:
    """Runs compiled modules as they were written: hooks are not to be traced, or missed by what was traced before."""
    return torch.compiler.set_stance("force_eager")


def probe_tokens(decoder: Decoder) -> Tensor:
    """Eight token ids spread over the vocabulary, [1, 8]."""
    vocabulary = token_embedding(decoder.backbone).num_embeddings  # type: ignore[union-attr]
    return (torch.arange(8) * max(1, vocabulary // 8) % vocabulary)[None]


def states_on(decoder: Decoder, tokens: Tensor, sub_blocks: SubBlocks | None = None) -> dict[int, BlockStates]:
    """Every block's states on a few tokens."""
    states: dict[int, BlockStates] = {}
    with watch(decoder, states.__setitem__, sub_blocks=sub_blocks):
        run(decoder, tokens)
    return states


def _change(old: Tensor, new: Tensor) -> float:
    """Relative change of the median token, [1, seq, d] each: one token that goes to another expert does not count."""
    old, new = (torch.where(old.isfinite() & new.isfinite(), t, 0).float() for t in (old, new))
    return float(((new - old).norm(dim=-1) / old.norm(dim=-1).clamp_min(1e-30)).median())
