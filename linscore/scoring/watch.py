"""`linscore.watch`: scores of a model that somebody else runs, in a loop of their own, read by hooks beside it.

The states of one forward pass are kept until it has ended, as they are for `output_hidden_states=True`: what is left
out of one block is then left out of every block, and a pass that ends in an error counts nowhere.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.call import uncompiled
from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.in_use import in_use
from linscore.decoder.run import check_causal
from linscore.decoder.run import watch as watch_blocks
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError
from linscore.options.score import ScoreOptions
from linscore.scoring.replayed import Replay
from linscore.scoring.report import Report
from linscore.statistics.moments import Moments


@contextmanager
def watch(model: nn.Module, options: ScoreOptions | None = None, **changes: Any) -> Iterator[Watched]:
    """Score a decoder on whatever runs through it meanwhile; what it gives is not changed.

        with linscore.watch(model) as watched:
            for batch in loader:
                loss = model(**batch).loss
        watched.report().blocks[3].linearity_no_residual_heldout

    Every call of the model counts, in any mode, with gradients or without; compiled modules run as they were written.
    Padding is left out by the `attention_mask` of the call. The states of one pass are kept until it has ended.

    Args:
        model: any Hugging Face decoder, or a module whose blocks are one ModuleList.
        options: what is scored, and how.
        changes: fields of `ScoreOptions` that replace those of `options`: folds, skip_first, precision, sub_blocks,
            blocks, spans, skip_tokens, backend.

    Raises:
        LinscoreError: as `score`; in a call that has no token ids, goes on from a cache, or holds a mask that is not 0
            and 1 for each token.

    Examples:
        >>> with linscore.watch(model) as watched:
        ...     for batch in batches:
        ...         out = model(batch, labels=batch)
        >>> watched.report().tokens
        512
    """
    decoder = find_decoder(model)
    with in_use(decoder, scored=True), uncompiled(), ExitStack() as hooks:
        watched = Watched(decoder, replace(options or ScoreOptions(), **changes))
        check_causal(decoder)
        watched._hook(hooks)
        yield watched


class Watched:
    """What `watch` has seen so far."""

    def __init__(self, decoder: Decoder, options: ScoreOptions) -> None:
        self._decoder, self._thread = decoder, threading.get_ident()
        self._replay = Replay(decoder, options)
        self._open: nn.Module | None = None  # whose call it is that is under way
        self._given: dict[str, Tensor | None] = {}
        self._states: dict[int, BlockStates] = {}
        self._versions: list[tuple[Tensor, int]] = []

    @property
    def moments(self) -> dict[str, Moments]:
        """By their names, as in `Report.moments`: "block.3" pairs what enters and what leaves block 3."""
        return self._replay.collector.moments

    @property
    def tokens(self) -> int:
        """How many have counted, but for those that were not finite."""
        return self._replay.collector.tokens - self._replay.collector.nonfinite_rows

    def report(self, *, name: str | None = None, text: str | None = None, spectra: bool | None = None) -> Report:
        """All figures so far; the arguments are those of `score`. Raises LinscoreError before the first pass."""
        return self._replay.report(name or self._decoder.name, text, spectra)

    def _hook(self, hooks: ExitStack) -> None:
        collector = self._replay.collector
        hooks.enter_context(watch_blocks(self._decoder, self._keep, collector.watched, collector.sub_blocks))
        # A wrapper may call what is inside the model, and some models what is inside their backbone.
        for module in dict.fromkeys((self._decoder.model, self._decoder.backbone)):
            hooks.callback(module.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(self._end, always_call=True).remove)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open is not None:
            return
        if threading.get_ident() != self._thread:
            raise LinscoreError(f"{self._decoder.name} is watched in another thread: run it there, or a copy of it")
        self._given = _tokens_of(self._decoder.name, module, args, kwargs)
        self._open, self._states, self._versions = module, {}, []

    def _keep(self, index: int, states: BlockStates) -> None:
        if self._open is None:  # of a block that is run by itself, or again in a backward pass
            return
        if index in self._states:
            raise LinscoreError(
                f"{self._decoder.name} runs block {index} more than once in a pass: it cannot be scored"
            )
        parts = {field.name: self._kept(getattr(states, field.name)) for field in fields(BlockStates)}
        self._states[index] = BlockStates(**parts)  # type: ignore[arg-type]

    def _kept(self, state: Tensor | None) -> Tensor | None:
        if state is None:
            return None
        if state.is_inference():  # has no version that would tell a change
            return state.clone()
        state = state.detach()
        self._versions.append((state, state._version))
        return state

    def _end(self, module: nn.Module, _args: Any, output: Any) -> None:
        if module is not self._open:
            return
        states, versions = self._states, self._versions
        self._open, self._states, self._versions = None, {}, []
        if output is None:  # it has ended in an error
            return
        self._check(states, versions)
        with torch.no_grad():
            self._replay.add(self._given["input_ids"], self._given["attention_mask"], states)

    def _check(self, states: Mapping[int, BlockStates], versions: list[tuple[Tensor, int]]) -> None:
        name = self._decoder.name
        missing = sorted(self._replay.collector.watched - states.keys())
        if missing:
            raise LinscoreError(f"{name} has not run blocks {missing} in this pass: turn off what leaves out blocks")
        if any(state._version != version for state, version in versions):
            raise LinscoreError(f"{name} changes states in place between two blocks: score it by `linscore.score`")


def _tokens_of(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor | None]:
    """Token ids and mask of a call.

    Raises:
        LinscoreError: where there are none, or it goes on from a cache.
    """
    signature = inspect.signature(module.forward)
    given = signature.bind_partial(*args, **kwargs).arguments
    named = dict(given) | given.get("kwargs", {})
    first = None if "input_ids" in signature.parameters else next(iter(given.values()), None)
    ids, mask = named.get("input_ids", first), named.get("attention_mask")
    if any(map(_holds_tokens, named.values())):
        raise LinscoreError(
            f"{name} goes on from a cache, whose tokens are not here: watch passes over whole sequences"
        )
    if not isinstance(ids, Tensor):
        raise LinscoreError(f"{name} is called without `input_ids`, which say what is padding and whose fold a row is")
    return {"input_ids": ids, "attention_mask": mask}


def _holds_tokens(value: Any) -> bool:
    """Whether this is a cache, which versions and families name differently, that holds tokens."""
    length = getattr(value, "get_seq_length", None)
    return callable(length) and bool(length())
