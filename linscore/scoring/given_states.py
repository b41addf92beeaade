"""Scores of hidden states that others have computed: a model is not needed, and cannot be asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from linscore_kernels.given import DTYPES, as_mask, as_tensor
from torch import Tensor, nn

from linscore.decoder.find import Decoder
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError
from linscore.options.score import ScoreOptions
from linscore.scoring.replayed import Replay
from linscore.scoring.report import Report, ScoreWarning


def score_states(
    hidden_states: Sequence[Any],
    mask: Any = None,
    options: ScoreOptions | None = None,
    *,
    last_is_normed: bool = True,
    name: str = "hidden states",
    text: str | None = None,
    spectra: bool | None = None,
    **changes: Any,
) -> Report:
    """Score the blocks between hidden states that are there already (paper: section 3.1).

        output = model(**batch, output_hidden_states=True)
        report = linscore.score_states(output.hidden_states, batch["attention_mask"])

    Args:
        hidden_states: h_0 … h_L, what enters the first block and what leaves each, `[B, T, d]` (or `[T, d]` of one
            sequence), as `Moments.update` takes them.
        mask: `[B, T]` (`[T]`), 1 for tokens and 0 for padding.
        options: what is scored, and how.
        last_is_normed: whether h_L is behind the final norm, as in most families transformers gives it: it is not what
            leaves the last block then, which is left out, with a warning. False where it is what leaves that block.
        name: what the report calls the model.
        text: what the report calls the text.
        spectra: as in `score`.
        changes: fields of `ScoreOptions` that replace those of `options`: folds, skip_first, precision, blocks, spans,
            backend.

    Raises:
        LinscoreError: for states or a mask that do not fit together, or fewer than two rows.

    Examples:
        >>> states = model(batches[0], output_hidden_states=True).hidden_states
        >>> [block.index for block in linscore.score_states(states).blocks]  # behind the last one is the final norm
        [0, 1, 2, 3, 4]
    """
    given = GivenStates(replace(options or ScoreOptions(), **changes), last_is_normed=last_is_normed)
    given.add(hidden_states, mask)
    return given.report(name=name, text=text, spectra=spectra)


class GivenStates:
    """The same, batch by batch, each with as many states; memory does not grow with the number of tokens.

    Args:
        options: what is scored, and how.
        last_is_normed: as in `score_states`.
        first: which state h the first one is: what enters block `first`.
        unless: how a caller says that the last is not normed, in messages.
    """

    def __init__(
        self,
        options: ScoreOptions,
        *,
        last_is_normed: bool = True,
        first: int = 0,
        unless: str = "`last_is_normed=False`",
    ) -> None:
        self._options, self._normed, self._first, self._unless = options, last_is_normed, first, unless
        self._replay: Replay | None = None
        self._depth = 0

    def add(self, hidden_states: Sequence[Any], mask: Any = None, *, input_ids: Any = None, folds: Any = None) -> int:
        """Add a batch, of which token ids `[B, T]` and folds `[B]` may be known; how many tokens counted."""
        states = _read(hidden_states)
        shape = states[0].shape[:-1]
        if self._replay is None:
            self._begin(states)
        assert self._replay is not None
        before = self._depth - self._first + 1
        if len(states) != before:
            raise LinscoreError(f"`hidden_states` are {len(states)}, and were {before} before: give as many")
        if input_ids is None and self._options.skip_tokens:
            raise LinscoreError("`skip_tokens` are given, and no token ids: give a mask in their place")
        ids = torch.zeros(shape, dtype=torch.long) if input_ids is None else input_ids
        kept = None if mask is None else as_mask("mask", _batched(as_tensor("`mask`", mask), 1), shape)
        pairs = pairwise(states)
        around = {index: BlockStates(x.to(y.device), y) for index, (x, y) in enumerate(pairs, self._first)}
        with torch.no_grad():
            return self._replay.add(ids, kept, around, known=input_ids is not None, folds=folds)

    def report(self, *, name: str, text: str | None = None, spectra: bool | None = None) -> Report:
        """All figures so far."""
        if self._replay is None:
            raise LinscoreError("there are no states to report on yet: give some first")
        report = self._replay.report(name, text, spectra)
        if not self._normed:
            return report
        left_out = ScoreWarning(
            "last_block",
            f"block {self._depth - 1}, the last one, is left out: the last of `hidden_states` is behind the final "
            f"norm in most families, and so not what leaves it; say {self._unless} where it is",
        )
        return replace(report, warnings=[left_out, *report.warnings])

    def _begin(self, states: Sequence[Tensor]) -> None:
        options, first = self._options, self._first
        last = first + len(states) - 2
        if self._normed and last in {first, *(options.blocks or ()), *(span.last for span in options.spans)}:
            raise LinscoreError(
                f"block {last}, the last one, is asked for, and what is given is behind the final norm in most "
                f"families: say {self._unless} where it is what leaves that block, or leave it out"
            )
        if options.blocks is None:
            options = replace(options, blocks=range(first, last if self._normed else last + 1))
        self._replay = Replay(_stand_in(states, last + 1), options, "sub_blocks")
        self._depth = last + 1


class _NoBlock(nn.Module):
    """What is known of a block whose states are given: their dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)


def _stand_in(states: Sequence[Tensor], depth: int) -> Decoder:
    """A decoder of so many blocks, which cannot be run."""
    blocks = nn.ModuleList(_NoBlock(states[0].dtype) for _ in range(depth))
    return Decoder(blocks, blocks, blocks, "", states[0].shape[-1], "hidden states")


def _read(hidden_states: Sequence[Any]) -> list[Tensor]:
    """States `[B, T, d]`. Raises LinscoreError for what are none, or not of one shape."""
    if hidden_states is None or isinstance(hidden_states, (str, Mapping)) or not isinstance(hidden_states, Iterable):
        raise LinscoreError(
            f"`hidden_states` is of type {type(hidden_states).__name__}: give h_0 … h_L in a list, as a model gives "
            "them for `output_hidden_states=True`"
        )
    states = [_batched(as_tensor(f"`hidden_states[{n}]`", one), 2).detach() for n, one in enumerate(hidden_states)]
    if len(states) < 2:
        raise LinscoreError(
            f"`hidden_states` are {len(states)}: give two at least, what enters a block and what leaves it"
        )
    for n, one in enumerate(states):
        if one.ndim != 3 or one.shape != states[0].shape or one.dtype not in DTYPES:
            wanted = f"[B, T, d] floats, all {list(states[0].shape)} as the first"
            raise LinscoreError(f"`hidden_states[{n}]` is {list(one.shape)} {one.dtype}: give {wanted}")
    return states


def _batched(value: Tensor, ndim: int) -> Tensor:
    """A batch of one sequence where there is a sequence."""
    return value[None] if value.ndim == ndim else value
