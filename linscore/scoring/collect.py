"""One streaming pass: every block's moments, updated in the block's own hook while the activation is hot.

Nothing outlives a hook but sums, and what a span needs until it ends, so memory does not grow with the number of
tokens. A row that turns non-finite in one block is left out of every block: the batch is then run once more, and the
blocks that had taken it give it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from linscore_kernels import NONFINITE
from torch import Tensor

from linscore.decoder.find import Decoder
from linscore.decoder.run import run, watch
from linscore.decoder.states import BlockStates, SubBlocks
from linscore.errors import LinscoreError
from linscore.scoring.span_states import Pair, SpanStates
from linscore.spans import Span
from linscore.statistics.moments import Moments
from linscore.text.folds import FoldDealer

Batch = Tensor | Mapping[str, Tensor]
Rows = dict[int, Tensor | None]  # fold → positions in the flattened batch; None: all of them


class Collector:
    """Collects the moments of some blocks of a decoder, batch by batch.

    Args:
        decoder: from `find_decoder`.
        folds: cross-validation folds; they follow the text, never the batch.
        blocks: indices of the blocks to score; all by default.
        sub_blocks: from `find_sub_blocks`, to score attention and MLP apart too.
        spans: each scored as one map, also beyond `blocks`; a single block among them is scored as one of `blocks`.
        fuse: spans whose map may be fused into the MLP projection before them, from its p inputs: 8·p·(p + d) bytes
            a span and fold.
        fuse_output: the same from the projection's d outputs: 16·d² bytes a span and fold.
        skip_first: positions at the start of each sequence that do not count (attention sinks live there).
        skip_tokens: token ids whose positions do not count.
        precision: "fast" or "exact"; `backend`: "triton" or "eager" (see `Moments`).

    Attributes:
        moments: "block.3" pairs what enters and what leaves block 3, "block.3.mlp" its MLP's input and contribution;
            "state.4" pairs the state entering block 4 with itself, kept where no scored block begins with it, because
            CKA needs the Gram matrix of what leaves block 3. "span.3-5", "fuse.3-5.intermediate" (x: what enters the
            MLP projection of block 2, δ: what blocks 3 to 5 add, float32) and "fuse.3-5.output": see `SpanStates`.
        tokens: rows that were meant to count. `nonfinite_rows`: those of them left out of every block.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        folds: int = 2,
        blocks: Collection[int] | None = None,
        sub_blocks: SubBlocks | None = None,
        spans: Collection[Span] = (),
        fuse: Collection[Span] = (),
        fuse_output: Collection[Span] = (),
        skip_first: int = 0,
        skip_tokens: Collection[int] = (),
        precision: str = "fast",
        backend: str | None = None,
    ) -> None:
        depth = len(decoder.blocks)
        single = {span.first for span in spans if span.first == span.last}
        self.indices = sorted(single | set(range(depth) if blocks is None else blocks))
        if not self.indices or not 0 <= self.indices[0] <= self.indices[-1] < depth:
            raise LinscoreError(f"blocks {self.indices} are not all there: this decoder has blocks 0 to {depth - 1}")
        if skip_first < 0:
            raise LinscoreError(f"skip_first is {skip_first}: give the number of positions to leave out, 0 or more")
        self.decoder, self.sub_blocks = decoder, sub_blocks
        self.spans = SpanStates(decoder, spans, fuse, fuse_output)
        self.skip_first, self.skip_tokens = skip_first, torch.tensor(sorted(skip_tokens), dtype=torch.long)
        self.folds, self.precision, self.backend = folds, precision, backend
        self.moments: dict[str, Moments] = {}
        self.tokens = self.nonfinite_rows = 0
        self._dealer = FoldDealer(folds)

    def add(self, batch: Batch) -> int:
        """Run one batch: `input_ids` `[B, T]`, or a dict of them with `attention_mask` `[B, T]` and `folds` `[B]`.

        Returns:
            How many tokens counted.

        Raises:
            LinscoreError: for a batch of another form, or where no row of the first batch comes out finite.
        """
        ids, mask, folds = self._read(batch)
        counting = self._counting(ids, mask)
        rows = _rows_by_fold(counting, folds)
        lost = self._sweep(ids, mask, lambda _name: rows)
        spoilt = torch.stack(list(lost.values())).any(0) if lost else torch.zeros_like(counting)
        if lost and not self.tokens and bool((spoilt == counting).all()):
            raise LinscoreError(
                f"not one token came out of {next(iter(lost))} finite (NaN or infinity): check the weights, or try "
                "another --dtype"
            )
        if lost:
            back = {
                name: _rows_by_fold(spoilt & ~lost.get(name, torch.zeros_like(spoilt)), folds) for name in self.moments
            }
            self._sweep(ids, mask, back.__getitem__, sign=-1)
        tokens = int(counting.sum())
        self.tokens += tokens
        self.nonfinite_rows += int(spoilt.sum())
        return tokens

    def _sweep(
        self, ids: Tensor, mask: Tensor | None, rows_of: Callable[[str], Rows], sign: int = 1
    ) -> dict[str, Tensor]:
        """Run the decoder and add rows to every pair of states; the positions `[B, T]` that a pair lost, by name."""
        lost: dict[str, Tensor] = {}

        def take(index: int, states: BlockStates) -> None:
            for pair in self._pairs(index, states):
                for fold, rows in rows_of(pair.name).items():
                    status = self._moments(pair).update(
                        pair.x, pair.y, delta=pair.delta, fold=fold, rows=rows, sign=sign
                    )
                    bad = (status == NONFINITE).nonzero()[:, 0].cpu()
                    if len(bad):
                        where = lost.setdefault(pair.name, torch.zeros(ids.shape, dtype=torch.bool))
                        where.view(-1)[bad if rows is None else rows[bad]] = True

        with self.spans.collecting(), watch(self.decoder, take, self._watched, self.sub_blocks):
            run(self.decoder, ids, mask)
        return lost

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
        yield Pair(f"block.{index}", x, y)
        if index + 1 not in self.indices:
            yield Pair(f"state.{index + 1}", y, y)
        if states.attention is not None and states.mlp is not None and states.mlp_input is not None:
            yield Pair(f"block.{index}.attention", x, delta=states.attention.flatten(0, 1))
            yield Pair(f"block.{index}.mlp", states.mlp_input.flatten(0, 1), delta=states.mlp.flatten(0, 1))

    def _moments(self, pair: Pair) -> Moments:
        if pair.name not in self.moments:
            other = pair.delta if pair.y is None else pair.y
            assert other is not None
            self.moments[pair.name] = Moments(
                pair.x.shape[-1],
                width_delta=other.shape[-1],
                folds=self.folds,
                precision=self.precision,
                backend=self.backend,
                device=pair.x.device,
            )
        return self.moments[pair.name]

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Token ids `[B, T]`, mask, and the fold of each sequence."""
        parts = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch)
        ids, mask, folds = parts.get("input_ids"), parts.get("attention_mask"), parts.get("folds")
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
            raise LinscoreError("a batch must be a tensor of token ids [B, T], or a dict that holds one as input_ids")
        if mask is not None and mask.shape != ids.shape:
            raise LinscoreError(f"attention_mask is {tuple(mask.shape)}, input_ids {tuple(ids.shape)}: give one shape")
        if folds is None:
            folds = torch.tensor([self._dealer.next() for _ in range(len(ids))], dtype=torch.long)
        elif folds.shape != ids.shape[:1] or not 0 <= folds.min() <= folds.max() < self.folds:
            raise LinscoreError(f"folds must give each of the {len(ids)} sequences a fold from 0 to {self.folds - 1}")
        return ids.cpu(), None if mask is None else mask.cpu(), folds.cpu()

    def _counting(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Which positions `[B, T]` count: no padding, none of the first k, no token that is to be left out."""
        real = torch.ones_like(ids) if mask is None else (mask != 0).long()
        counting = (real == 1) & (real.cumsum(1) > self.skip_first)
        return counting & ~torch.isin(ids, self.skip_tokens) if len(self.skip_tokens) else counting


def _rows_by_fold(counting: Tensor, folds: Tensor) -> Rows:
    """The flat positions of each fold, in order; None in place of all positions, which need not be gathered."""
    if counting.all() and (folds == folds[0]).all():
        return {int(folds[0]): None}
    present = folds.unique().tolist()
    return {fold: (counting & (folds == fold)[:, None]).flatten().nonzero()[:, 0] for fold in present}
