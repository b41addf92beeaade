"""Scoring with the loops turned round: all batches of a group through one block, then through the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from linscore.decoder.block_by_block import BlockByBlock, Weights
from linscore.decoder.find import Decoder, token_embedding, weight_sample
from linscore.decoder.kept_states import KeptStates
from linscore.machine.allocator import give_back
from linscore.machine.memory import Fitting
from linscore.scoring.first_loss import FirstLoss, first_loss, first_rows
from linscore.scoring.span_states import Held
from linscore.scoring.ways import AsRun, Watcher
from linscore.spans import Span
from linscore.statistics.moments import Moments
from linscore.statistics.placed import Placed
from linscore.statistics.put_by import PutBy
from linscore.text.batch import Batch, Tokens, read_batch

ALSO = -1  # the number of the rows whose loss is measured, beside those of batches


class Streamed:
    """A way to run a decoder whose blocks come one at a time; the states of a group are kept between two blocks.

    Args:
        decoder: from `find_decoder`; its blocks need no weights.
        weights: gives them their weights.
        room: bytes of states that are kept at once. A text of more is run in groups, and each reads all weights.
        folder: where states and moments are kept in files; None: in host memory.

    Raises:
        LinscoreError: for a decoder that cannot run so.
    """

    tells = True

    def __init__(self, decoder: Decoder, weights: Weights, *, room: int, folder: Path | None = None) -> None:
        self._decoder, self._room, self._folder = decoder, room, folder
        self._one, self._put_by, self._fitting = BlockByBlock(decoder, weights), PutBy(folder), Fitting()
        self._embedding = token_embedding(decoder.backbone).weight  # type: ignore[union-attr]
        self._rows: Tensor | None = None  # of the first batch: their loss is measured
        self._left: Tensor | None = None  # what leaves the last block on them
        self._samples: dict[int, list[float] | None] = {}
        self._former: list[float] | None = None

    @property
    def weight_sample(self) -> list[float] | None:
        """As `linscore.decoder.find.weight_sample` has it, of blocks that have run."""
        samples = [self._samples.get(index) for index in range(len(self._decoder.blocks))]
        return self._former if None in samples else [weight for sample in samples for weight in sample or ()]

    def go_on(self, weight_sample: list[float] | None) -> None:
        """A run that had these weights is gone on with: blocks may have nothing left to do."""
        self._former = weight_sample

    def trying(self) -> AbstractContextManager[Decoder]:
        """One block of each kind, with its weights."""
        return self._one.shallow()

    def groups(self, batches: Iterable[Batch], first: int = 0) -> Iterator[list[Batch]]:
        """As many batches as there is room for their states, one at least, or as many as there were."""
        group: list[Batch] = []
        kept = 0
        for batch in batches:
            tokens = read_batch(batch)
            size = tokens.input_ids.numel() * self._decoder.width * self._embedding.element_size()
            full = kept + size > self._room if first == 0 else len(group) == first
            if group and full:
                yield group
                group, kept, first = [], 0, 0
            if self._rows is None:
                self._rows = first_rows(tokens)
            group.append(batch)
            kept += size
        if group:
            yield group

    def put_by(self, name: str, moments: Moments) -> None:
        """They come to the device when their block does."""
        self._put_by.put(name, moments)

    def parts(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> AsRun:
        """A batch as it can be run."""
        return self._one.parts(input_ids, attention_mask, position_ids)

    def run(self, batches: Mapping[int, Tokens], watcher: Watcher) -> None:
        """Run a group; what was taken of a batch is settled once the device has its next one to work on."""
        kept = KeptStates(self._embedding.device, self._folder)
        held: dict[int, Held] = {number: {} for number in batches}
        last = max(watcher.blocks)
        start = 0 if watcher.begun is None else self._go_on(watcher.begun, kept, held)
        wanted = self._left is None and (start == 0 or ALSO in kept)  # not where they were run before
        also = self._rows if wanted else None
        for number in batches:
            for index in range(start):
                watcher.ran(number, index + 1, last + 1)
        for index in range(start, last + 1 if also is None else len(self._decoder.blocks)):
            with self._one.at(index):
                self._see(index)
                if also is not None:
                    self._run_block(index, ALSO, Tokens(also, None, None), kept, {}, watcher)
                for number, tokens in batches.items() if index <= last else ():
                    self._run_block(index, number, tokens, kept, held[number], watcher)
                    watcher.ran(number, index + 1, last + 1)
                watcher.settle(None)
                for name, moments in watcher.added().items():  # to make room for those of the next block
                    self._put_by.put(name, moments)
            give_back()
            if watcher.between is not None and index < last:
                watcher.between(index + 1, self._so_far(kept, held))
        if also is not None:
            self._left = kept[ALSO].clone()

    def _so_far(self, kept: KeptStates, held: Mapping[int, Held]) -> dict[str, Tensor]:
        """What a run is gone on from: states, what spans hold, and weights that were looked at."""
        found = {f"kept/{number}": state for number, state in kept.items()}
        for number, one in held.items():
            found |= {f"held/{number}/{kind}/{span}": tensor for (kind, span), tensor in one.items()}
        found |= {f"sample/{index}": torch.tensor(one).double() for index, one in self._samples.items() if one}
        return found

    def _go_on(self, begun: tuple[int, Mapping[str, Tensor]], kept: KeptStates, held: Mapping[int, Held]) -> int:
        """Take over what `_so_far` gave; the next block."""
        for name, tensor in begun[1].items():
            kind, _, which = name.partition("/")
            if kind == "kept":
                kept[int(which)] = tensor
            elif kind == "sample":
                self._samples[int(which)] = tensor.tolist()
            else:
                number, form, span = which.split("/")
                held[int(number)][form, Span.parse(span)] = tensor
        return begun[0]

    def first_loss(self, _batch: Tokens) -> FirstLoss | None:
        """The loss on the first batch, whose longest rows were run beside it."""
        if self._rows is None or self._left is None:
            return None
        with self._one.after(len(self._decoder.blocks), self._left):
            return first_loss(self._decoder, self._rows)

    def to_solve(self, moments: Mapping[str, Moments]) -> Mapping[str, Moments]:
        """The moments, which are put by, on the device again for as long as one of them is used."""
        return Placed(moments, lambda _: self._embedding.device)

    def _run_block(
        self, index: int, number: int, tokens: Tokens, kept: KeptStates, held: Held, watcher: Watcher
    ) -> None:
        """All rows of a batch at once; where there is no memory for that, in parts, each with what spans hold of it."""
        rows, length = tokens.input_ids.shape

        def some(first: int, stop: int) -> tuple[Tensor, Held]:
            part, whole = tokens.rows(first, stop), stop - first == rows
            if not whole:
                watcher.settle(None)  # what is not settled holds memory
            state = kept.rows(number, first, stop) if index else None
            if state is not None and index in watcher.spans.blocks:
                state = state.clone()  # a span holds it, and what leaves the block takes its place
            take = partial(watcher.take, number, first) if index in watcher.blocks and number != ALSO else None
            inputs = (part.input_ids, part.mask, part.position_ids)
            of_part = {key: tensor[first * length : stop * length] for key, tensor in held.items()}
            with watcher.spans.collecting(of_part):
                left = self._one.run_block(index, state, inputs, take, watcher.sub_blocks)
            return left if whole else left.cpu(), {key: tensor.cpu() for key, tensor in of_part.items()}

        left, of_parts = zip(*self._fitting.run(rows, some, partial(watcher.settle, number)), strict=True)
        kept[number] = _joined(list(left))
        held.clear()
        held.update({key: _joined([one[key] for one in of_parts]) for key in of_parts[0]})

    def _see(self, index: int) -> None:
        block = self._decoder.blocks[index]
        self._samples[index] = weight_sample(replace(self._decoder, blocks=nn.ModuleList([block])))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
