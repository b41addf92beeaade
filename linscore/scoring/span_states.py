"""What the moments of spans need of one pass: states and MLP activations, held no longer than until their span ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from linscore.decoder.find import Decoder
from linscore.decoder.mlp_output import check_wide, find_projection
from linscore.decoder.states import BlockStates, first_tensor
from linscore.errors import LinscoreError
from linscore.scoring.names import Fused, MomentsName
from linscore.spans import Span

Held = dict[tuple[str, Span], Tensor]


class Pair(NamedTuple):
    """Rows of x against those of y or of δ, `[B·T, d]`, and the name of their moments; x of a fusion is `[B·T, p]`."""

    name: MomentsName
    x: Tensor
    y: Tensor | None = None
    delta: Tensor | None = None

    @staticmethod
    def alone(name: MomentsName, states: Tensor) -> Pair:
        """One set of states, of which the second moment is wanted and nothing else."""
        return Pair(name, states, delta=states.new_zeros(len(states), 1))

    @property
    def added(self) -> Pair:
        """What y adds to x, or δ, by itself."""
        delta = self.delta
        if delta is None:
            assert self.y is not None
            delta = _delta(self.x, self.y)
        return Pair.alone(self.name.added, delta)


class SpanStates:
    """Holds what enters a span, and what the MLP before it gives, until its last block has run.

    Args:
        decoder: from `find_decoder`.
        spans: "span.3-5" pairs what enters block 3 with what leaves block 5; a single block is no span here.
        fuse: "fuse.3-5.intermediate" pairs the input of block 2's MLP projection with what blocks 3 to 5 add.
        fuse_output: "fuse.3-5.output" pairs that projection's output, bias included, with the same.
        trying: the decoder on which the projection is tried; by default the same.

    Attributes:
        blocks: indices of the blocks whose states are needed.
        projection: the path of the MLP's output projection, where something is to be fused.

    Raises:
        LinscoreError: for spans that are not there, without a block before them, or in a family that cannot be fused.
    """

    def __init__(
        self,
        decoder: Decoder,
        spans: Collection[Span],
        fuse: Collection[Span],
        fuse_output: Collection[Span],
        trying: Decoder | None = None,
    ) -> None:
        self.spans = {span for span in spans if len(span.blocks) > 1}
        self.fuse, self.fuse_output = set(fuse), set(fuse_output)
        self._forms: dict[Fused, set[Span]] = {"intermediate": self.fuse, "output": self.fuse_output}
        self._every = sorted(self.spans | self.fuse | self.fuse_output)
        _check(decoder, {*spans, *self._every}, self.fuse | self.fuse_output)
        self.blocks = {index for span in self._every for index in (span.first, span.last)}
        self.projection = find_projection(trying or decoder) if self.fuse or self.fuse_output else None
        if self.projection is not None and self.fuse:
            check_wide(decoder, self.projection)
        self._decoder = decoder
        self._held: Held = {}

    @contextmanager
    def collecting(self, held: Held | None = None) -> Iterator[None]:
        """Watches the projections before the spans while the decoder runs; nothing is held afterwards.

        Where a decoder runs one block after the other, `held` is what goes from one run to the next on a batch.
        """
        with ExitStack() as hooks:
            self._held = {} if held is None else held
            hooks.callback(setattr, self, "_held", {})
            for index in sorted({span.first - 1 for span in self.fuse | self.fuse_output}):
                assert self.projection is not None
                layer = self._decoder.blocks[index].get_submodule(self.projection)
                hooks.callback(layer.register_forward_hook(self._keeper(index + 1)).remove)
            yield

    def pairs(self, index: int, states: BlockStates) -> Iterator[Pair]:
        """Everything that is scored once block `index` has run, whose states must be given in order."""
        self._hold("state", [span for span in self._every if span.first == index], _rows(states.x))
        for span in [span for span in self._every if span.last == index]:
            y = _rows(states.y)
            x = self._held.pop(("state", span)).to(y.device)
            if span in self.spans:
                yield Pair(MomentsName.across(span), x, y)
            for form, asked in self._forms.items():
                if span in asked:
                    fused = self._held.pop((form, span)).to(y.device)
                    yield Pair(MomentsName.fused(span, form), fused, delta=_delta(x, y))

    def _keeper(self, first: int) -> Callable[..., None]:
        """A hook for the projection of the block before `first`."""
        intermediate, output = (
            [span for span in asked if span.first == first] for asked in (self.fuse, self.fuse_output)
        )

        def hook(_layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            self._hold("intermediate", intermediate, _rows(first_tensor(args)))
            if output:
                self._hold("output", output, _rows(out).clone())  # Falcon adds its attention to it in place

        return hook

    def _hold(self, kind: str, spans: Collection[Span], rows: Tensor) -> None:
        self._held.update({(kind, span): rows for span in spans})


def _check(decoder: Decoder, spans: Collection[Span], fused: Collection[Span]) -> None:
    depth = len(decoder.blocks)
    missing = [str(span) for span in sorted(spans) if not 0 <= span.first <= span.last < depth]
    if missing:
        raise LinscoreError(f"spans {', '.join(missing)} are not all there: this decoder has blocks 0 to {depth - 1}")
    if any(span.first == 0 for span in fused):
        raise LinscoreError("block 0 has no MLP before it that a map could be fused into: fuse spans from block 1 on")


def _rows(states: Tensor) -> Tensor:
    """One row a token: OPT flattens batch and sequence for its MLP, others do not."""
    return states.reshape(-1, states.shape[-1])


def _delta(x: Tensor, y: Tensor) -> Tensor:
    """What the span adds, in float32 at least: a 16-bit δ would round what 16-bit states still hold exactly."""
    dtype = torch.promote_types(y.dtype, torch.float32)
    return y.to(dtype) - x.to(y.device, dtype)
