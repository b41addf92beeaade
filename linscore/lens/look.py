"""One pass over a sample of tokens, and what is read off its states."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from linscore.decoder.find import Decoder
from linscore.decoder.run import check_causal, run, watch
from linscore.decoder.run import parts as run_parts
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError
from linscore.lens.head import Head, find_head
from linscore.lens.result import Depth, Lens, Predictions
from linscore.machine.memory import Fitting
from linscore.machine.versions import versions
from linscore.statistics.figures import state_metrics
from linscore.statistics.intrinsic_dimension import intrinsic_dimension
from linscore.statistics.similarity import similarity
from linscore.text.batch import Batch, Tokens, read_batch

TOKENS = 2048  # of which the states at every depth are held
SHOWN = 64  # tokens whose predictions are kept
DIGITS = 6  # of similarities
ROWS = 256  # tokens whose logits are held at once

Decode = Callable[[list[int]], str]


class _Sample(NamedTuple):
    """States `[L + 1, n, d]` and token ids `[n]`, and of each token the one that comes next, −1 at a sequence's end."""

    states: Tensor
    ids: Tensor
    following: Tensor


def look(
    decoder: Decoder,
    batches: Iterable[Batch],
    decode: Decode,
    *,
    tokens: int = TOKENS,
    name: str | None = None,
    text: str = "",
) -> Lens:
    """What the states of the first `tokens` tokens look like at every depth.

    All of them are held: 4·(L + 1)·tokens·d bytes.

    Args:
        decoder: from `find_decoder`.
        batches: as `score` takes them, read as far as is needed.
        decode: token ids to text.
        tokens: how many are looked at; those of padding do not count.
        name: what the result calls the model.
        text: what it calls the text.

    Raises:
        LinscoreError: where the model is no decoder, or the batches hold less than four tokens.
    """
    check_causal(decoder)
    sample = _sample(decoder, batches, tokens)
    try:
        head, note = find_head(decoder), None
    except LinscoreError as error:
        head, note = None, str(error)
    seen = None if head is None else _through(head, sample)
    finite = sample.states.isfinite().flatten(2).all(2).all(0)
    states = sample.states[:, finite].float()
    alike = similarity(states)
    return Lens(
        model=name or decoder.name,
        text=text,
        tokens=int(finite.sum()),
        depths=[_depth(depth, one, seen) for depth, one in enumerate(states)],
        similarity={key: _rounded(value) for key, value in alike._asdict().items()},
        predictions=None if seen is None else _predictions(sample, seen, decode),
        note=note,
        versions=versions(),
    )


class _Seen(NamedTuple):
    """Read off at every depth, `[L + 1, n]`: the next token's cost, with and without the norm, and the likeliest."""

    losses: Tensor
    without_norm: Tensor
    tops: Tensor


def _sample(decoder: Decoder, batches: Iterable[Batch], tokens: int) -> _Sample:
    """The states of the first tokens, on the CPU."""
    parts: list[_Sample] = []
    fitting = Fitting()
    for batch in batches:
        read = read_batch(batch)
        for _, ids, mask in run_parts(decoder, read.input_ids, read.mask, read.position_ids):
            some = Tokens(ids, mask, None, position_ids=read.position_ids)
            parts += fitting.run(len(ids), partial(_states, decoder, some))
        if sum(len(part.ids) for part in parts) >= tokens:
            break
    if sum(len(part.ids) for part in parts) < 4:
        raise LinscoreError("the batches hold less than four tokens: give a longer text")
    whole = (torch.cat([part[0] for part in parts], 1), *(torch.cat([part[i] for part in parts]) for i in (1, 2)))
    return _Sample(whole[0][:, :tokens], whole[1][:tokens], whole[2][:tokens])


def _states(decoder: Decoder, tokens: Tokens, first: int, stop: int) -> _Sample:
    """Of some rows of what is run at once."""
    some = tokens.rows(first, stop)
    states: dict[int, Tensor] = {}

    def keep(index: int, found: BlockStates) -> None:
        states[index] = found.x.detach().cpu()
        states[index + 1] = found.y.detach().cpu()

    with watch(decoder, keep):
        run(decoder, some.input_ids, some.mask, some.position_ids)
    ids, real = some.input_ids.cpu().long(), some.real.cpu()
    following = torch.full_like(ids, -1)
    following[:, :-1] = torch.where(real[:, 1:], ids[:, 1:], -1)
    stacked = torch.stack([states[depth] for depth in sorted(states)])
    return _Sample(stacked[:, real], ids[real], following[real])


def _through(head: Head, sample: _Sample) -> _Seen:
    """Every depth through the head; a token without a next one costs NaN."""
    with torch.no_grad():
        depths = [_read_off(head, states, sample.following) for states in sample.states]
    return _Seen(*(torch.stack(kind) for kind in zip(*depths, strict=True)))


def _read_off(head: Head, states: Tensor, following: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Costs with and without the norm, and likeliest tokens, `[n]` each."""
    device = next(head.head.parameters()).device
    parts = []
    for rows, wanted in zip(states.split(ROWS), following.split(ROWS), strict=True):
        with_norm, without = (head.logits(rows.to(device), with_norm=norm).cpu() for norm in (True, False))
        parts.append((_cost(with_norm, wanted), _cost(without, wanted), with_norm.argmax(-1)))
    costs, bare, tops = (torch.cat(part) for part in zip(*parts, strict=True))
    return costs, bare, tops


def _cost(logits: Tensor, wanted: Tensor) -> Tensor:
    cost = torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-1, reduction="none")
    return cost.masked_fill(wanted < 0, torch.nan)


def _depth(depth: int, states: Tensor, seen: _Seen | None) -> Depth:
    near = intrinsic_dimension(states)
    centred = states.double() - states.double().mean(0)
    return Depth(
        depth=depth,
        loss=None if seen is None else _mean(seen.losses[depth]),
        loss_without_norm=None if seen is None else _mean(seen.without_norm[depth]),
        agrees=None if seen is None else (seen.tops[depth] == seen.tops[-1]).double().mean().item(),
        dimension=None if near is None else near.dimension,
        dimension_error=None if near is None else near.error,
        anisotropy=state_metrics(centred.T @ centred).anisotropy,
    )


def _mean(costs: Tensor) -> float | None:
    """Over the tokens that have a next one."""
    mean = costs.double().nanmean().item()
    return mean if mean == mean else None


def _predictions(sample: _Sample, seen: _Seen, decode: Decode) -> Predictions:
    words = [decode([one]) for one in sample.ids[:SHOWN].tolist()]
    tops = [[decode([one]) for one in row[:SHOWN].tolist()] for row in seen.tops]
    losses = [[None if cost != cost else cost for cost in row[:SHOWN].tolist()] for row in seen.losses]
    return Predictions(words, tops, losses)


def _rounded(matrix: Tensor) -> list[list[float]]:
    """As many digits as float32 products give."""
    return [[round(value, DIGITS) for value in row] for row in matrix.tolist()]
