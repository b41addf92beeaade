"""One streaming pass: every block's moments, updated in the block's own hook while the activation is hot.

Nothing outlives a hook but sums, and what a span needs until it ends, so memory does not grow with the number of
tokens. A row that turns non-finite in one block is left out of every block: the batch is then run once more, and the
blocks that had taken it give it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from linscore.decoder.find import Decoder, token_embedding
from linscore.decoder.states import BlockStates
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.errors import LinscoreError
from linscore.machine.memory import is_out_of_memory
from linscore.options.score import ScoreOptions
from linscore.scoring.midway import Between, Midway
from linscore.scoring.names import MomentsName
from linscore.scoring.parts import Part, Reader
from linscore.scoring.settle import Marked, Positions, rows_by_fold
from linscore.scoring.span_states import Pair, SpanStates
from linscore.scoring.sweep import RowsOf, Sweep, of_every, of_some
from linscore.scoring.ways import Ran, Watcher, Way, Whole, quiet_ran
from linscore.statistics.moments import Moments
from linscore.statistics.update import Update
from linscore.text.batch import Batch, Tokens


class Collector:
    """Collects the moments of some blocks of a decoder, batch by batch.

    Args:
        decoder: from `find_decoder`.
        options: what is scored, and how.
        way: how batches are run; by default each through the whole decoder.
        changes: fields of `ScoreOptions` that replace those of `options`.

    Attributes:
        moments: by their names, see `MomentsName`: "block.3" pairs what enters and what leaves block 3, "block.3.mlp"
            its MLP's input and contribution; "state.4" pairs the state entering block 4 with itself, kept where no
            scored block begins with it, because CKA needs the Gram matrix of what leaves block 3. "span.3-5",
            "fuse.3-5.intermediate" (x: what enters the MLP projection of block 2, δ: what blocks 3 to 5 add, float32)
            and "fuse.3-5.output": see `SpanStates`. Where a sensitivity is asked for, "delta.3", "delta.3.mlp" and
            "delta.3-5" are of what a block, a part or a span adds.
        tokens: rows that were meant to count. `nonfinite_rows`: those of them left out of every block.
        crowded: names of moments that met more heavy rows in a batch than are held, and wait for their number since.

    Examples:
        >>> collector = linscore.Collector(linscore.find_decoder(model), blocks=[2], folds=1)
        >>> collector.add(batches[0])
        256
        >>> list(collector.moments)
        ['block.2', 'state.3']
    """

    def __init__(
        self, decoder: Decoder, options: ScoreOptions | None = None, way: Way | None = None, **changes: Any
    ) -> None:
        self.options = replace(options or ScoreOptions(), **changes)
        self._reader = Reader(self.options)
        spans, blocks = self.options.spans, self.options.blocks
        depth = len(decoder.blocks)
        single = {span.first for span in spans if span.first == span.last}
        self.indices = sorted(single | set(range(depth) if blocks is None else blocks))
        if not self.indices or not 0 <= self.indices[0] <= self.indices[-1] < depth:
            raise LinscoreError(f"blocks {self.indices} are not all there: this decoder has blocks 0 to {depth - 1}")
        self.decoder = decoder
        self.way = way or Whole(decoder)
        fuse, fuse_output, sub_blocks = self.options.fuse, self.options.fuse_output, self.options.sub_blocks
        with self.way.trying() if fuse or fuse_output or sub_blocks else nullcontext(decoder) as trying:
            self.spans = SpanStates(decoder, spans, fuse, fuse_output, trying)
            self.sub_blocks = find_sub_blocks(trying) if sub_blocks else None
        self.moments: dict[str, Moments] = {}
        self.tokens = self.nonfinite_rows = 0
        self.begun = False  # by another process, which saw that rows are finite
        self.crowded: set[str] = set()

    def add(self, batch: Batch) -> int:
        """Run one batch: `input_ids` `[B, T]`, or a dict of them with `attention_mask`, `position_ids`, `folds` `[B]`.

        Returns:
            How many tokens counted.

        Raises:
            LinscoreError: for a batch of another form, or where no row of the first batch comes out finite.
        """
        return self.add_parts(self.parts(batch))

    def pass_over(self, batch: Batch) -> int:
        """Deal the sequences of a batch to folds as `add` does, and nothing else; how many tokens would count."""
        return self._reader.pass_over(batch)

    def merge(self, moments: Mapping[str, Moments]) -> None:
        """Add moments that a collector of the same decoder and options has collected, by their names."""
        for name, one in moments.items():
            if name not in self.moments:
                self.moments[name] = self.new_moments(one.d, one.width_delta, self.device)
            self.moments[name].merge(one)
            self.way.put_by(name, self.moments[name])

    @property
    def device(self) -> torch.device:
        """Where the model takes tokens."""
        embedding = token_embedding(self.decoder.backbone)
        return torch.device("cpu") if embedding is None or embedding.weight.is_meta else embedding.weight.device

    def parts(self, batch: Batch) -> list[Part]:
        """A batch as it can be run, and what counts of it. Raises LinscoreError for a batch of another form."""
        tokens, folds = self._reader.read(batch)
        run = self.way.parts(tokens.input_ids, tokens.mask, tokens.position_ids)
        return [
            self._reader.part(
                Tokens(ids, mask, None, position_ids=tokens.position_ids), folds[rows], rows.nonzero().flatten().cpu()
            )
            for rows, ids, mask in run
        ]

    def add_parts(
        self,
        parts: Sequence[Part],
        progress: Callable[[int], None] | None = None,
        between: Between | None = None,
        begun: Midway | None = None,
    ) -> int:
        """Run parts of batches, and add their rows.

        Args:
            parts: as `parts` gives them.
            progress: told meanwhile how many tokens have counted.
            between: called between two blocks, where the way of running has all parts there.
            begun: what `between` was called with, whose moments these are: the parts are gone on with there.

        Returns:
            How many tokens counted.
        """
        lost = self._take_in(parts, progress, between, begun)
        back: dict[int, RowsOf] = {}
        for number, part in enumerate(parts):
            spoilt = self._spoilt(part, lost[number])
            if lost[number]:
                back[number] = self._given_back(part, spoilt, lost[number])
            self.tokens += int(part.counting.sum())
            self.nonfinite_rows += int(spoilt.sum())
        if back:
            self._sweep(parts, back, [{} for _ in parts], sign=-1, hold=False)
        return sum(int(part.counting.sum()) for part in parts)

    def _spoilt(self, part: Part, lost: Marked) -> Tensor:
        """The positions `[B, T]` that some pair lost."""
        spoilt = torch.stack(list(lost.values())).any(0) if lost else torch.zeros_like(part.counting)
        if lost and not (self.tokens or self.begun) and bool((spoilt == part.counting).all()):
            raise LinscoreError(
                f"not one token came out of {next(iter(lost))} finite (NaN or infinity): check the weights, or try "
                "another `dtype`"
            )
        return spoilt

    def _given_back(self, part: Part, spoilt: Tensor, lost: Marked) -> RowsOf:
        """What pairs had taken of the positions that others lost."""
        none = torch.zeros_like(spoilt)
        back = {name: rows_by_fold(spoilt & ~lost.get(name, none), part.folds) for name in self.moments}
        return back.__getitem__

    def _take_in(
        self,
        parts: Sequence[Part],
        progress: Callable[[int], None] | None,
        between: Between | None,
        begun: Midway | None,
    ) -> list[Marked]:
        """Add the rows to every pair of states; those that a pair lost because they are not finite."""
        lost: list[Marked] = [{} for _ in parts] if begun is None else list(begun.lost)

        def ran(number: int, blocks: int, of: int) -> None:
            tokens = int(parts[number].counting.sum())
            if progress is not None:
                progress(tokens * blocks // of - tokens * (blocks - 1) // of)

        every = {n: of_every(part.rows) for n, part in enumerate(parts)}
        left = self._sweep(parts, every, lost, ran=ran, between=between, begun=begun)
        if any(left):  # more heavy rows than are held come in a second run, and their pairs no longer hold any
            self.crowded.update(*left)
            more = {n: of_some(marked, parts[n].folds) for n, marked in enumerate(left) if marked}
            self._sweep(parts, more, lost)
        return lost

    def _sweep(
        self,
        parts: Sequence[Part],
        rows_of: Mapping[int, RowsOf],
        lost: Sequence[Marked],
        sign: int = 1,
        *,
        hold: bool = True,
        ran: Ran = quiet_ran,
        between: Between | None = None,
        begun: Midway | None = None,
    ) -> list[Marked]:
        """Run the decoder on those parts that `rows_of` has, and add their rows to every pair of states.

        What a pair of a part loses is marked in `lost`. Only pairs that do not hold heavy rows wait for them. Returns
        heavy rows that are not added yet, by part.
        """
        left: list[Marked] = [{} for _ in parts] if begun is None else list(begun.left)
        sweep = Sweep(parts, rows_of, lost, left, self._pairs, partial(self._begin, sign=sign, hold=hold))
        watcher = Watcher(
            take=sweep.take,
            settle=sweep.settle,
            blocks=self.watched,
            sub_blocks=self.sub_blocks,
            spans=self.spans,
            added=lambda: {name: self.moments[name] for name in sweep.added()},
            ran=ran,
            between=None if between is None else lambda block, states: between(Midway(block, states, lost, left)),
            begun=None if begun is None else (begun.block, begun.states),
        )
        self.way.run({number: parts[number].tokens for number in rows_of}, watcher)
        return left

    def _begin(self, pair: Pair, positions: Positions, *, fold: int, sign: int, hold: bool) -> Update:
        """Add rows of a pair of states. Sums are not half taken: where there is no memory for it, that is the end."""
        rows, hold = positions.on(pair.x.device), hold and str(pair.name) not in self.crowded
        try:
            moments = self._moments(pair)
            return moments.begin(pair.x, pair.y, delta=pair.delta, fold=fold, rows=rows, sign=sign, hold=hold)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise LinscoreError(
                f"there is no memory for the sums of {pair.name}: give a smaller `batch_size`, fewer `blocks` or "
                "another `device`"
            ) from error

    @property
    def watched(self) -> set[int]:
        """Indices of the blocks whose states are needed."""
        return self.spans.blocks.union(self.indices)

    def _pairs(self, index: int, states: BlockStates) -> Iterator[Pair]:
        """Everything that is scored around one block, and the spans that end with it."""
        scored = self._block_pairs(index, states) if index in self.indices else iter(())
        for pair in chain(scored, self.spans.pairs(index, states)):
            yield pair
            if self.options.sensitivity is not None and pair.name.kind in ("block", "span"):
                yield pair.added

    def _block_pairs(self, index: int, states: BlockStates) -> Iterator[Pair]:
        x, y = states.x.flatten(0, 1), states.y.flatten(0, 1)
        yield Pair(MomentsName.block(index), x, y)
        if index + 1 not in self.indices:
            yield Pair(MomentsName.state(index + 1), y, y)
        if states.attention is not None and states.mlp is not None and states.mlp_input is not None:
            yield Pair(MomentsName.block(index, "attention"), x, delta=states.attention.flatten(0, 1))
            mlp_input, mlp = states.mlp_input.flatten(0, 1), states.mlp.flatten(0, 1)
            yield Pair(MomentsName.block(index, "mlp"), mlp_input, delta=mlp)

    def _moments(self, pair: Pair) -> Moments:
        name = str(pair.name)
        if name not in self.moments:
            other = pair.delta if pair.y is None else pair.y
            assert other is not None
            self.moments[name] = self.new_moments(pair.x.shape[-1], other.shape[-1], pair.x.device)
        elif self.moments[name].device != pair.x.device:  # of a run that is gone on with, or put by
            self.moments[name].to(pair.x.device)
        return self.moments[name]

    def new_moments(self, width: int, width_delta: int, device: torch.device, folds: int | None = None) -> Moments:
        """Those of no row, as the options have them."""
        options = self.options
        return Moments(
            width,
            width_delta=width_delta,
            folds=folds or options.folds,
            precision=options.precision,
            backend=options.backend,
            device=device,
        )
