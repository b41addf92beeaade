"""What a padded batch has to be run with, so that the states of real tokens are those they have without padding.

The name of an argument proves nothing: BART takes a mask and shifts its positions all the same, RWKV takes one and
ignores it, RoBERTa numbers positions from its padding id. So a few tokens are run alone and padded, and what agrees is
taken (decisions: Padding is tried).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from linscore.decoder.call import accepted, call, probe_tokens
from linscore.decoder.find import Decoder, token_embedding
from linscore.decoder.in_use import in_use
from linscore.decoder.states import BlockStates, hook_block

Form = tuple[str, ...]  # which arguments say that there is padding

FORMS: tuple[Form, ...] = (("attention_mask", "position_ids"), ("attention_mask",), ())
TOKENS, PADDING = 8, 3  # of the rows that are tried


def padding_form(decoder: Decoder, mask: Tensor) -> Form | None:
    """What such a batch can be run with; None if nothing leaves the real tokens as they are. Tried once a decoder.

    Args:
        decoder: from `find_decoder`.
        mask: [B, T] bool, False for padding.
    """
    sides = _sides(mask)
    if _holes(mask):
        return None
    if sides not in decoder.tried:
        known = accepted(decoder)
        forms = [form for form in FORMS if all(name in known for name in form)]
        decoder.tried[sides] = next((form for form in forms if _agrees(decoder, form, sides)), None)
    return decoder.tried[sides]


def is_tried(decoder: Decoder, mask: Tensor) -> bool:
    """Whether `padding_form` knows its answer for a mask `[B, T]` bool without running anything."""
    sides = _sides(mask)
    return not sides or sides in decoder.tried or _holes(mask)


def padded_inputs(decoder: Decoder, form: Form, input_ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The arguments of a batch in this form; the ids of padding, which mean nothing, are the model's own."""
    inputs = {"input_ids": torch.where(mask, input_ids, _own_padding(decoder))}
    if "attention_mask" in form:
        inputs["attention_mask"] = mask.long()
    if "position_ids" in form:
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp_min(0)
    return inputs


def of_one_length(mask: Tensor) -> Iterator[Tensor]:
    """The rows `[B]` bool of a mask `[B, T]` that have equally many tokens, for each such number but zero."""
    lengths = mask.sum(1)
    for length in lengths[lengths > 0].unique():
        yield lengths == length


def _sides(mask: Tensor) -> tuple[str, ...]:
    """On which sides some row has padding."""
    return tuple(side for side, column in (("left", 0), ("right", -1)) if not mask[:, column].all())


def _own_padding(decoder: Decoder) -> int:
    """The id that the model has for padding."""
    embedding = token_embedding(decoder.backbone)
    return 0 if embedding is None or embedding.padding_idx is None else embedding.padding_idx


def _without(padding: int, tokens: Tensor) -> Tensor:
    """The same ids but for that of padding."""
    return torch.where(tokens == padding, 1 if padding == 0 else 0, tokens)


def _holes(mask: Tensor) -> bool:
    """Whether some row has padding between its tokens."""
    starts = mask[:, 1:] & ~mask[:, :-1]
    return bool((starts.sum(1) + mask[:, 0] > 1).any())


def _agrees(decoder: Decoder, form: Form, sides: tuple[str, ...]) -> bool:
    """Whether a few tokens have the same states alone and padded, beside a row that is not."""
    row, whole = (_without(_own_padding(decoder), probe_tokens(decoder, n)) for n in (TOKENS, TOKENS + PADDING))
    places = [slice(PADDING, None) if side == "left" else slice(TOKENS) for side in sides]
    ids = torch.cat([whole] * (len(sides) + 1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    for index, place in enumerate(places):
        mask[index] = False
        mask[index, place] = True
        ids[index, place] = row[0]
    alone, beside = (_states(decoder, {"input_ids": tokens}) for tokens in (row, whole))
    found = _states(decoder, padded_inputs(decoder, form, ids, mask))
    return all(
        _same(found[block][-1], beside[block][0])
        and all(_same(found[block][index, place], alone[block][0]) for index, place in enumerate(places))
        for block in found
    )


def _states(decoder: Decoder, inputs: dict[str, Tensor]) -> dict[int, Tensor]:
    """What leaves each block."""
    states: dict[int, Tensor] = {}

    def keep(index: int, around: BlockStates) -> None:
        states[index] = around.y

    with in_use(decoder), ExitStack() as hooks:
        for index, block in enumerate(decoder.blocks):
            hook_block(hooks, block, partial(keep, index), None)
        call(decoder, inputs)
    return states


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether every token `[T, d]` is the same but for rounding, which adds up over blocks."""
    tolerance = max(1e-3, 16 * torch.finfo(found.dtype).eps)
    finite = found.isfinite() & expected.isfinite()
    found, expected = (torch.where(finite, states, 0).float() for states in (found, expected))
    change = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)
    return bool((change <= tolerance).all())
