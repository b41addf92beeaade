"""One streaming pass: every block's moments, updated in the block's own hook while the activation is hot.

Nothing outlives a hook but sums, and what a span needs until it ends, so memory does not grow with the number of
tokens. A row that turns non-finite in one block is left out of every block: the batch is then run once more, and the
blocks that had taken it give it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from linscore.decoder.find import Decoder
from linscore.decoder.run import parts, run, watch
from linscore.decoder.states import BlockStates
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.errors import LinscoreError
from linscore.options import ScoreOptions
from linscore.scoring.names import MomentsName
from linscore.scoring.settle import Marked, Rows, Taken, rows_by_fold, settle
from linscore.scoring.span_states import Pair, SpanStates
from linscore.statistics.moments import Moments
from linscore.text.batch import Batch, Tokens, read_batch
from linscore.text.folds import FoldDealer


class Collector:
    """Collects the moments of some blocks of a decoder, batch by batch.

    Args:
        decoder: from `find_decoder`.
        options: what is scored, and how.
        changes: fields of `ScoreOptions` that replace those of `options`.

    Attributes:
        moments: by their names, see `MomentsName`: "block.3" pairs what enters and what leaves block 3, "block.3.mlp"
            its MLP's input and contribution; "state.4" pairs the state entering block 4 with itself, kept where no
            scored block begins with it, because CKA needs the Gram matrix of what leaves block 3. "span.3-5",
            "fuse.3-5.intermediate" (x: what enters the MLP projection of block 2, δ: what blocks 3 to 5 add, float32)
            and "fuse.3-5.output": see `SpanStates`.
        tokens: rows that were meant to count. `nonfinite_rows`: those of them left out of every block.
    """

    def __init__(self, decoder: Decoder, options: ScoreOptions | None = None, **changes: Any) -> None:
        self.options = replace(options or ScoreOptions(), **changes)
        self._skip_tokens = torch.tensor(sorted(self.options.skip_tokens), dtype=torch.long)
        spans, blocks = self.options.spans, self.options.blocks
        depth = len(decoder.blocks)
        single = {span.first for span in spans if span.first == span.last}
        self.indices = sorted(single | set(range(depth) if blocks is None else blocks))
        if not self.indices or not 0 <= self.indices[0] <= self.indices[-1] < depth:
            raise LinscoreError(f"blocks {self.indices} are not all there: this decoder has blocks 0 to {depth - 1}")
        self.decoder = decoder
        self.spans = SpanStates(decoder, spans, self.options.fuse, self.options.fuse_output)
        self.sub_blocks = find_sub_blocks(decoder) if self.options.sub_blocks else None
        self.moments: dict[str, Moments] = {}
        self.tokens = self.nonfinite_rows = 0
        self._crowded: set[str] = set()  # pairs that met more heavy rows than are held: they wait for their number

    def add(self, batch: Batch) -> int:
        """Run one batch: `input_ids` `[B, T]`, or a dict of them with `attention_mask`, `position_ids`, `folds` `[B]`.

        Returns:
            How many tokens counted.

        Raises:
            LinscoreError: for a batch of another form, or where no row of the first batch comes out finite.
        """
        tokens, folds = self._read(batch)
        whole = parts(self.decoder, tokens.input_ids, tokens.mask, tokens.position_ids)
        return sum(
            self._add(Tokens(ids, mask, None, position_ids=tokens.position_ids), folds[rows])
            for rows, ids, mask in whole
        )

    def _add(self, tokens: Tokens, folds: Tensor) -> int:
        """Run what can be run at once; how many tokens counted."""
        counting = self._counting(tokens)
        rows = rows_by_fold(counting, folds)
        lost = self._take_in(tokens, rows, folds)
        spoilt = torch.stack(list(lost.values())).any(0) if lost else torch.zeros_like(counting)
        if lost and not self.tokens and bool((spoilt == counting).all()):
            raise LinscoreError(
                f"not one token came out of {next(iter(lost))} finite (NaN or infinity): check the weights, or try "
                "another `dtype`"
            )
        if lost:
            back = {
                name: rows_by_fold(spoilt & ~lost.get(name, torch.zeros_like(spoilt)), folds) for name in self.moments
            }
            self._sweep(tokens, back.__getitem__, {}, sign=-1, hold=False)
        count = int(counting.sum())
        self.tokens += count
        self.nonfinite_rows += int(spoilt.sum())
        return count

    def _take_in(self, tokens: Tokens, rows: Rows, folds: Tensor) -> Marked:
        """Add the rows to every pair of states; those that a pair lost because they are not finite."""
        lost: Marked = {}
        left = self._sweep(tokens, lambda _name: rows, lost)
        if left:  # more heavy rows than are held come in a second run, and their pairs no longer hold any
            self._crowded.update(left)
            more = {name: rows_by_fold(where, folds) for name, where in left.items()}
            self._sweep(tokens, lambda name: more.get(name, {}), lost)
        return lost

    def _sweep(
        self,
        tokens: Tokens,
        rows_of: Callable[[str], Rows],
        lost: Marked,
        sign: int = 1,
        *,
        hold: bool = True,
    ) -> Marked:
        """Run the decoder and add rows to every pair of states; only those that do not hold heavy rows wait for them.

        What a pair loses is marked in `lost`. Returns heavy rows that are not added yet.
        """
        taken: list[Taken] = []

        def take(index: int, states: BlockStates) -> None:
            for pair in self._pairs(index, states):
                name = str(pair.name)
                held = hold and name not in self._crowded
                for fold, positions in rows_of(name).items():
                    rows = positions.on(pair.x.device)
                    update = self._moments(pair).begin(
                        pair.x, pair.y, delta=pair.delta, fold=fold, rows=rows, sign=sign, hold=held
                    )
                    taken.append(Taken(name, positions, update))

        with self.spans.collecting(), watch(self.decoder, take, self._watched, self.sub_blocks):
            run(self.decoder, tokens.input_ids, tokens.mask, tokens.position_ids)
        return settle(taken, tokens.input_ids.shape, lost)

    @cached_property
    def _dealer(self) -> FoldDealer:
        """Deals the sequences of batches that do not say their folds."""
        return FoldDealer(self.options.folds)

    @property
    def _watched(self) -> set[int]:
        return self.spans.blocks.union(self.indices)

    def _pairs(self, index: int, states: BlockStates) -> Iterator[Pair]:
        """Everything that is scored around one block, and the spans that end with it."""
        if index in self.indices:
            yield from self._block_pairs(index, states)
        yield from self.spans.pairs(index, states)

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
            self.moments[name] = Moments(
                pair.x.shape[-1],
                width_delta=other.shape[-1],
                folds=self.options.folds,
                precision=self.options.precision,
                backend=self.options.backend,
                device=pair.x.device,
            )
        return self.moments[name]

    def _read(self, batch: Batch) -> tuple[Tokens, Tensor]:
        """The batch and the fold of each sequence, on the CPU."""
        tokens = read_batch(batch)
        ids, folds, count = tokens.input_ids, tokens.folds, self.options.folds
        if folds is None:
            folds = torch.tensor([self._dealer.next() for _ in range(len(ids))], dtype=torch.long)
        elif folds.shape != ids.shape[:1] or not 0 <= folds.min() <= folds.max() < count:
            raise LinscoreError(f"folds must give each of the {len(ids)} sequences a fold from 0 to {count - 1}")
        return Tokens(*(None if part is None else part.cpu() for part in tokens)), folds.cpu()  # type: ignore[arg-type]

    def _counting(self, tokens: Tokens) -> Tensor:
        """Which positions `[B, T]` count: no padding, none of the first k, no token that is to be left out."""
        real = tokens.real
        counting = real & (real.cumsum(1) > self.options.skip_first)
        if len(self._skip_tokens):
            counting &= ~torch.isin(tokens.input_ids, self._skip_tokens)
        return counting
