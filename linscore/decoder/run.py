"""Running a decoder's blocks for whoever watches, without head, cache, gradients or dropout.

A forward hook on every block hands over x (entering) and y (leaving, before the model's final norm) the moment the
block has run, so no more than one block's states are held.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.call import accepted, call, check_ids, check_length, probe_tokens, uncompiled
from linscore.decoder.find import Decoder, token_embedding
from linscore.decoder.in_use import in_use
from linscore.decoder.padding import of_one_length, padded_inputs, padding_form
from linscore.decoder.states import BlockStates, SubBlocks, entering_state, hook_block
from linscore.errors import LinscoreError, reason


def run(
    decoder: Decoder, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> None:
    """Runs the blocks on a batch, for whoever watches: no head, no cache, no gradients, no dropout.

    Padding on either side leaves the states of real tokens as they are without it; those of padding mean nothing. How
    is tried once (`padding_form`), before a watch is set, since that would see what is tried: by `parts`, or at once.

    Args:
        decoder: from `find_decoder`.
        input_ids: [batch, seq], integers, on any device.
        attention_mask: [batch, seq], 1 for tokens and 0 for padding; None where nothing is padded.
        position_ids: [batch, seq], where they are not simply counted.

    Raises:
        LinscoreError: if the shapes do not fit, a token has no embedding or no position, the model takes no positions,
            or the batch is padded and whatever says so moves the states of real tokens.
    """
    if input_ids.ndim != 2 or any(t is not None and t.shape != input_ids.shape for t in (attention_mask, position_ids)):
        raise LinscoreError("input_ids, attention_mask and position_ids must have one shape, [batch, seq]")
    # Without a mask, attention kernels use their causal fast path.
    mask = _padding(attention_mask)
    real = input_ids if mask is None else input_ids[mask]
    if real.numel() > 0:
        check_ids(decoder.name, token_embedding(decoder.backbone), real)  # type: ignore[arg-type]
    if position_ids is not None:
        inputs = _given_positions(decoder, input_ids, mask, position_ids)
    else:
        check_length(decoder, input_ids.shape[1])
        inputs = {"input_ids": input_ids} if mask is None else _padded(decoder, input_ids, mask)
    call(decoder, inputs)


def parts(
    decoder: Decoder, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """A batch as it can be run: as it is, or rows of one length and without their padding.

    Yields:
        Which rows [batch] bool, their token ids, and their mask.
    """
    every = torch.ones(len(input_ids), dtype=torch.bool)
    mask = _padding(attention_mask)
    if mask is None or position_ids is not None or padding_form(decoder, mask) is not None:
        yield every, input_ids, attention_mask
        return
    for rows in of_one_length(mask):
        yield rows, input_ids[rows][mask[rows]].view(int(rows.sum()), -1), None


def check_causal(decoder: Decoder, *, encoder: bool | None = None) -> None:
    """Makes sure, by trying, that tokens do not see later tokens and that every block runs.

    The last of 8 tokens is changed: in a decoder the states of the other 7 stay the same, in an `encoder` they need
    not. None: the caller cannot be asked for one.

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
            raise LinscoreError(f"{decoder.name}: block {index} of {decoder.path} does not run on text alone")
        for old, new in ((before[index].x, after[index].x), (before[index].y, after[index].y)):
            if old.shape != (*tokens.shape, decoder.width):
                raise _another_stream(decoder, index, old)
            # Not zero: the experts of a mixture round differently when a token more or less comes to them.
            if not encoder and _change(old[:, :-1], new[:, :-1]) > max(1e-4, 4 * torch.finfo(old.dtype).eps):
                raise _not_causal(decoder, index, asked=encoder is not None)


def _not_causal(decoder: Decoder, index: int, *, asked: bool) -> LinscoreError:
    instead = ", or `encoder` if it is to be scored as one" if asked else ""
    return LinscoreError(
        f"{decoder.name} is not a decoder: at block {index} tokens see later tokens; give a causal model{instead}"
    )


def _another_stream(decoder: Decoder, index: int, found: Tensor) -> LinscoreError:
    what = "several residual streams" if found.ndim > 3 else "this residual stream"
    return LinscoreError(
        f"{decoder.name}: states around block {index} have shape {list(found.shape)} where [batch, seq, "
        f"{decoder.width}] was expected: {what} cannot be scored"
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


def _padding(attention_mask: Tensor | None) -> Tensor | None:
    """The mask as bool; None where nothing is padded."""
    return None if attention_mask is None or attention_mask.all() else attention_mask != 0


def _padded(decoder: Decoder, input_ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    form = padding_form(decoder, mask)
    if form is None:
        raise LinscoreError(
            f"{decoder.name}: padding like this moves the states of the tokens beside it, whatever the model is told: "
            "give texts of one length, without padding"
        )
    return padded_inputs(decoder, form, input_ids, mask)


def _given_positions(
    decoder: Decoder, input_ids: Tensor, mask: Tensor | None, position_ids: Tensor
) -> dict[str, Tensor]:
    """The arguments of a batch that brings its positions, which only some models can be told."""
    inputs = {"input_ids": input_ids, "position_ids": position_ids}
    if mask is not None:
        inputs = padded_inputs(decoder, ("attention_mask",), input_ids, mask) | {"position_ids": position_ids}
    unknown = sorted(inputs.keys() - accepted(decoder) - {"input_ids"})
    if unknown:
        raise LinscoreError(f"{decoder.name} takes no {' and no '.join(unknown)}: give a batch without")
    check_length(decoder, int(position_ids.max()) + 1)
    return inputs


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


def states_on(
    decoder: Decoder, tokens: Tensor, sub_blocks: SubBlocks | None = None, blocks: Collection[int] | None = None
) -> dict[int, BlockStates]:
    """The states of these blocks, every one by default, on a few tokens.

    Raises:
        LinscoreError: if the decoder does not run on token ids alone, or runs a block more than once.
    """
    states: dict[int, BlockStates] = {}

    def keep(index: int, found: BlockStates) -> None:
        if index in states:
            raise LinscoreError(
                f"{decoder.name} runs block {index} of {decoder.path} more than once on a text: which of its states is "
                "meant cannot be told"
            )
        states[index] = found

    try:
        with watch(decoder, keep, blocks, sub_blocks):
            run(decoder, tokens)
    except (LinscoreError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if any(weight.is_meta for weight in decoder.blocks.parameters()):  # what accelerate keeps elsewhere does run
            raise LinscoreError(
                f"{decoder.name} has no weights in memory (they are on the device meta): load them first, in nnsight "
                "by `dispatch()` of the model"
            ) from error
        raise LinscoreError(
            f"{decoder.name} does not run on token ids alone ({type(error).__name__}: {reason(error)})"
        ) from error
    return states


def _change(old: Tensor, new: Tensor) -> float:
    """Relative change of the median token, [1, seq, d] each: one token that goes to another expert does not count."""
    old, new = (torch.where(old.isfinite() & new.isfinite(), t, 0).float() for t in (old, new))
    return float(((new - old).norm(dim=-1) / old.norm(dim=-1).clamp_min(1e-30)).median())
