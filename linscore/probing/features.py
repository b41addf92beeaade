"""One vector per text and layer: the state of its last token, or the mean over its tokens.

States are pooled inside the blocks' hooks, so that of a batch no more than one block's states are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from linscore.decoder.find import Decoder
from linscore.decoder.run import parts, run, watch
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError
from linscore.machine.processes import ALONE, Processes
from linscore.text.tokens import pad_right, text_ids

__all__ = ["POOLED", "Features", "check_pool", "pooled_states", "text_features"]

POOLED = {"last": "last token's state", "mean": "mean of a text's states"}


@dataclass(frozen=True)
class Features:
    """What a decoder makes of some texts.

    Attributes:
        states: [L + 1, n, d] float32 on the CPU: h_0 (the embeddings) to h_L (before the final norm), a row per text.
        truncated: how many texts were longer than the limit and lost their end.
    """

    states: Tensor
    truncated: int


def text_features(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    pool: str = "last",
    longest: int,
    batch_tokens: int,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> Features:
    """Run texts through a decoder, each behind what its tokenizer puts in front of a text and with nothing after it.

    The result takes 4·(L + 1)·n·d bytes, and nothing else grows with the number of texts but their token ids. It
    depends neither on the batches nor on the padding side of the tokenizer, but for rounding.

    Args:
        decoder: from `find_decoder`.
        tokenizer: of the same model.
        texts: n of them.
        pool: "last" (the state of a text's last token) or "mean" (over its tokens).
        longest: tokens of a text that are read at most, special ones included.
        batch_tokens: tokens in a batch, padding included, where `batch_size` is not given.
        batch_size: texts in a batch.
        progress: called after each batch with the number of its tokens.
        processes: share the batches, and each gets all states.

    Raises:
        LinscoreError: a text is empty, a state is not finite, or `pool` or `batch_size` is out of range.
    """
    if batch_size is not None and batch_size < 1:
        raise LinscoreError(f"`batch_size` is {batch_size}: give 1 or more")
    check_pool(pool)
    whole = text_ids(tokenizer, texts)
    ids = [tokens[:longest] for tokens in whole]
    states = torch.zeros(len(decoder.blocks) + 1, len(ids), decoder.width)
    for number, rows in enumerate(_by_length([len(tokens) for tokens in ids], batch_tokens, batch_size)):
        batch, mask = pad_right([ids[row] for row in rows])
        if processes.takes(number):
            states[:, rows] = pooled_states(decoder, batch, mask, pool)
        if progress is not None:
            progress(int(mask.sum()))
    processes.add_up(states)  # of which each row is one process's, and zero with the others
    _check_finite(states)
    return Features(states, sum(len(tokens) > longest for tokens in whole))


def pooled_states(decoder: Decoder, input_ids: Tensor, attention_mask: Tensor, pool: str = "last") -> Tensor:
    """Every layer's states of one batch, pooled over the real tokens of each text.

    Args:
        decoder: from `find_decoder`.
        input_ids: [B, T], integers.
        attention_mask: [B, T], 1 for tokens and 0 for padding on either side; at least one token in each row.
        pool: "last" or "mean".

    Returns:
        [L + 1, B, d] float32 on the CPU.

    Raises:
        LinscoreError: if `pool` is neither, or the batch cannot be run (see `linscore.decoder.find.run`).
    """
    check_pool(pool)
    pooled = torch.empty(len(decoder.blocks) + 1, len(input_ids), decoder.width)
    for rows, ids, mask in parts(decoder, input_ids, attention_mask, None):
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask != 0

        def keep(index: int, states: BlockStates, rows: Tensor = rows, real: Tensor = real) -> None:
            if index == 0:
                pooled[0, rows] = _pooled(states.x, real, pool)
            pooled[index + 1, rows] = _pooled(states.y, real, pool)

        with watch(decoder, keep):
            run(decoder, ids, mask)
    return pooled


def _pooled(states: Tensor, real: Tensor, pool: str) -> Tensor:
    """`[B, T, d]` and `[B, T]` to `[B, d]`."""
    real = real.to(states.device)
    if pool == "last":
        last = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).argmax(1)
        return states[torch.arange(len(states), device=states.device), last].float().cpu()
    # The states of padding mean nothing and may be NaN, which no weight of zero would remove.
    total = torch.where(real[..., None], states.float(), 0).sum(1)
    return (total / real.sum(1, keepdim=True)).cpu()


def _by_length(lengths: Sequence[int], tokens: int, batch_size: int | None) -> Iterator[list[int]]:
    """Rows of like length together, which leaves little padding; the longest first, so that memory gives out early."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        count = batch_size or max(1, tokens // lengths[order[start]])
        yield order[start : start + count]
        start += count


def check_pool(pool: str) -> None:
    """Make sure that `pool` is one of `POOLED`.

    Raises:
        LinscoreError: if it is not.
    """
    if pool not in POOLED:
        raise LinscoreError(f"`pool` is {pool!r}: give {' or '.join(POOLED)}")


def _check_finite(states: Tensor) -> None:
    for layer, of_layer in enumerate(states):
        if not of_layer.isfinite().all():
            raise LinscoreError(
                f"some texts have states that are not finite (NaN or infinity) in layer {layer}: check the weights, or "
                "try another `dtype`"
            )
