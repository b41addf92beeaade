"""Batches whose states are there already, kept from a forward pass of somebody else's: they are taken as if run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from linscore.decoder.find import Decoder
from linscore.decoder.states import BlockStates
from linscore.errors import LinscoreError
from linscore.options.score import ScoreOptions
from linscore.scoring.collect import Collector
from linscore.scoring.first_loss import FirstLoss
from linscore.scoring.holds import kept_in_cache
from linscore.scoring.looks import Looks
from linscore.scoring.report import Report
from linscore.scoring.score import report_of
from linscore.scoring.ways import AsRun, Watcher, Whole
from linscore.text.batch import TokenDigest, Tokens, read_batch

NEEDS_A_RUN = (
    "until_stable",
    "fuse",
    "fuse_output",
    "sensitivity",
)  # of `ScoreOptions`: what only `score` can do, which runs the model


class Replayed(Whole):
    """A way to run one batch at a time whose states are in `states`: for each block, those around it."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.states: Mapping[int, BlockStates] = {}

    @property
    def weight_sample(self) -> list[float] | None:
        """A few of its weights, where there are any."""
        return super().weight_sample or None

    def parts(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> AsRun:  # noqa: ARG002
        """The batch as it was run."""
        return [(torch.ones(len(input_ids), dtype=torch.bool), input_ids, attention_mask)]

    def run(self, batches: Mapping[int, Tokens], watcher: Watcher) -> None:
        """Hand over the states of a batch, block by block."""
        for number in batches:
            with watcher.spans.collecting():
                for index in sorted(watcher.blocks):
                    watcher.take(number, 0, index, self.states[index])
            watcher.settle(None)
            watcher.ran(number, 1, 1)

    def first_loss(self, batch: Tokens) -> FirstLoss | None:  # noqa: ARG002
        """Not known."""
        return None


class Replay:
    """Collects from states that come batch by batch, and reports on them at any time.

    Args:
        decoder: whose states they are.
        options: what is scored, and how.
        refused: fields of `ScoreOptions` that cannot be asked for.
    """

    def __init__(self, decoder: Decoder, options: ScoreOptions, *refused: str) -> None:
        default = ScoreOptions()
        for name in (*NEEDS_A_RUN, *refused):
            if getattr(options, name) != getattr(default, name):
                raise LinscoreError(f"`{name}` needs a run of the model: ask `linscore.score` for it")
        self._way = Replayed(decoder)
        self.collector = Collector(decoder, options, self._way)
        self._kv_bytes = kept_in_cache(decoder, self._way)
        self._digest: TokenDigest | None = TokenDigest()
        self._started = time.perf_counter()

    def add(
        self,
        input_ids: Any,
        mask: Tensor | None,
        states: Mapping[int, BlockStates],
        *,
        known: bool = True,
        folds: Any = None,
    ) -> int:
        """Add a batch of token ids `[B, T]`, which may stand in for ones that are not `known`; how many counted."""
        batch = {"input_ids": input_ids, "attention_mask": mask, "folds": folds}
        tokens = read_batch(batch)
        shape = next(iter(states.values())).x.shape
        if tokens.input_ids.shape != shape[:2]:
            found = f"states {list(shape)} of token ids {list(tokens.input_ids.shape)}"
            raise LinscoreError(f"there are {found}: whose they are cannot be told, give ids as the states are")
        self._way.states = states
        try:
            counted = self.collector.add(batch)
        finally:
            self._way.states = {}
        if not known:
            self._digest = None
        if self._digest is not None:
            self._digest.add(tokens.input_ids)
        return counted

    def report(self, name: str, text: str | None, spectra: bool | None) -> Report:
        """All figures so far, as `score` gives them."""
        if not self.collector.moments:
            raise LinscoreError("there are no states to report on yet: give some first")
        report = report_of(self.collector, name, text, spectra, time.perf_counter() - self._started, self._kv_bytes)
        looks = Looks(self.collector.indices, report.folds, None)
        digest = None if self._digest is None else str(self._digest)
        return replace(report, tokens_digest=digest, curve=looks.ending_with(report.tokens, report.blocks))
