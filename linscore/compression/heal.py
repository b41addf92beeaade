"""What is left of a cut decoder, brought nearer to the original in closed form: one sweep, no gradient.

From the first unit that was replaced on, block by block: the output projection of every attention and MLP that is left
becomes W + ΔW, and every map is fitted anew, such that the state behind it comes closest to the original's at the depth
where it is read next: what stands right before units that were dropped takes over what they did. With p what enters the
projection and R what the state still lacks, both of the cut decoder healed so far:

    ΔW = argmin ‖R − pΔW‖² + λ‖D^½ ΔW‖²,  D = diag(C_pp),  λ with the least error on rows that were held out
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from linscore.compression.choices import DROP, Choice
from linscore.compression.forms import fit_form
from linscore.compression.trials import stand_in
from linscore.decoder.block_by_block import BlockByBlock, InMemory
from linscore.decoder.find import Decoder
from linscore.decoder.kept_states import KeptStates
from linscore.decoder.mlp_output import in_out_weight
from linscore.decoder.projections import find_projections
from linscore.decoder.states import BlockStates, SubBlocks
from linscore.decoder.sub_stand_ins import SubStandIns
from linscore.spans import PARTS, Part, Span, Unit
from linscore.statistics.maps import FittedMap, fit
from linscore.statistics.moments import Moments
from linscore.statistics.ridge import Regression
from linscore.text.batch import Batch, Tokens, read_batch


@dataclass(frozen=True)
class Change:
    """What is added to a projection `[p, d]` and its bias."""

    path: str  # inside the block
    weight: Tensor  # [p, d] float64, for x @ W
    bias: Tensor | None  # [d] float64; None where the projection has none
    fitted: FittedMap


@dataclass
class Healed:
    """Maps in the place of units, and what changes in projections that are left, by the original's blocks."""

    maps: dict[Unit, FittedMap | None] = field(default_factory=dict)
    changes: dict[Unit, Change] = field(default_factory=dict)


def heal(decoder: Decoder, sub_blocks: SubBlocks | None, choice: Choice, batches: Iterable[Batch]) -> Healed:
    """Fit what stands for the units of a choice, and what is left behind the first of them, to the original's states.

    Args:
        decoder: the original, which is as it was once this returns.
        sub_blocks: from `find_sub_blocks`; None where blocks cannot be split: then only maps are fitted.
        choice: the units that are replaced, single blocks and parts, and the form of each.
        batches: of a text, in folds.

    Raises:
        LinscoreError: where the decoder cannot run a block at a time, and as `fit_block_map`.
    """
    return _Sweep(decoder, sub_blocks, choice, [read_batch(batch) for batch in batches]).run()


class _Sweep:
    def __init__(self, decoder: Decoder, sub_blocks: SubBlocks | None, choice: Choice, batches: list[Tokens]) -> None:
        self.decoder, self.sub_blocks, self.choice, self.batches = decoder, sub_blocks, choice, batches
        self.one = BlockByBlock(decoder, InMemory())
        self.subs = None if sub_blocks is None else SubStandIns(decoder, sub_blocks)
        self.paths = {} if sub_blocks is None else find_projections(decoder, sub_blocks)
        self.dropped = {unit for unit, form in choice.items() if form == DROP}
        self.first = min(unit.span.first for unit in choice)
        self.begins = max(0, self.first - (Unit(Span(self.first, self.first)) in self.dropped))
        like = next(parameter for parameter in decoder.blocks.parameters() if parameter.is_floating_point())
        self.like, self.folds = like, 1 + max((int(b.folds.max()) for b in batches if b.folds is not None), default=0)
        self.original, self.cut, self.middle = (KeptStates(like.device) for _ in range(3))
        self.healed = Healed()

    def run(self) -> Healed:
        ran = -1
        for index in range(len(self.decoder.blocks)):
            with self.one.at(index):
                if ran < index:
                    ran = self._run_original(index)
                if index >= self.begins:
                    self._heal_block(index)
        return self.healed

    def _run_original(self, index: int) -> int:
        """The original's states where the next block that is left will read them; the last block that was run.

        Those behind the attention of block `index` too, where parts are told apart.
        """
        self._run_block(index, self._keep if index >= self.begins else None)
        later = index + 1
        while Unit(Span(later, later)) in self.dropped:
            with self.one.at(later):
                self._run_block(later, None)
            later += 1
        return later - 1

    def _run_block(self, index: int, keep: Callable[[int, int, BlockStates], None] | None) -> None:
        for number, batch in enumerate(self.batches):
            state = self.original[number] if index else None
            watched = None if keep is None else partial(keep, number)
            inputs = (batch.input_ids, None, None)
            self.original[number] = self.one.run_block(index, state, inputs, watched, self.sub_blocks)

    def _keep(self, number: int, index: int, states: BlockStates) -> None:
        if index == self.begins:
            self.cut[number] = states.x
        if states.attention is not None:
            self.middle[number] = states.x + states.attention

    def _heal_block(self, index: int) -> None:
        whole = Unit(Span(index, index))
        if whole in self.choice:
            self._heal_whole(whole)
            return
        parts: dict[tuple[int, Part], Any] = {}
        with ExitStack() as undo:
            for part in PARTS if self.subs is not None else ():
                unit = Unit(whole.span, part)
                if unit in self.choice:
                    fitted = self.healed.maps[unit] = self._refitted(unit, parts)
                    made = stand_in(fitted, self.like)
                    parts[index, part] = None if made is None else made.delta
                elif (index, part) in self.paths and (self._is_behind(unit) or self._is_before(unit)):
                    self._heal_projection(unit, parts, undo)
            for number, states in self._run_cut(index, parts):
                self.cut[number] = states.y

    def _is_behind(self, unit: Unit) -> bool:
        """Whether something was replaced before this part, so that it reads other states than in the original."""
        return unit.span.first > self.first or (unit.part == "mlp" and Unit(unit.span, "attention") in self.choice)

    def _is_before(self, unit: Unit) -> bool:
        """Whether what comes next was dropped, so that this part may add what that added."""
        first = unit.span.first
        after_it = Unit(unit.span, "mlp") if unit.part == "attention" else Unit(Span(first + 1, first + 1))
        return after_it in self.dropped

    def _heal_whole(self, unit: Unit) -> None:
        form = self.choice[unit]
        self.healed.maps[unit] = None
        if form == DROP:
            return
        moments = self._moments(self.decoder.width)
        for number, batch in enumerate(self.batches):
            x = self.cut[number]
            _add(moments, x, self.original[number] - x, batch)
        fitted = self.healed.maps[unit] = fit_form(Regression.of(moments), form)
        made = stand_in(fitted, self.like)
        assert made is not None
        for number in range(len(self.batches)):
            x = self.cut[number]
            self.cut[number] = (x + made.delta(x)).to(x.dtype)

    def _refitted(self, unit: Unit, parts: Mapping[tuple[int, Part], Any]) -> FittedMap | None:
        """The map in the place of a part, towards the original's state behind it."""
        form = self.choice[unit]
        if form == DROP:
            return None
        moments = self._moments(self.decoder.width)
        for number, states in self._run_cut(unit.span.first, parts):
            assert states.mlp_input is not None
            assert states.attention is not None
            reads = states.x if unit.part == "attention" else states.mlp_input
            stream = states.x if unit.part == "attention" else states.x + states.attention
            _add(moments, reads, self._target(unit, number) - stream, self.batches[number])
        return fit_form(Regression.of(moments), form)

    def _target(self, unit: Unit, number: int) -> Tensor:
        return (self.middle if unit.part == "attention" and not self._is_before(unit) else self.original)[number]

    def _heal_projection(self, unit: Unit, parts: Mapping[tuple[int, Part], Any], undo: ExitStack) -> None:
        """Change the projection of a part that is left, until `undo` is closed: the original runs before it does."""
        index, path = unit.span.first, self.paths[unit.span.first, unit.part]  # type: ignore[index]
        projection = self.decoder.blocks[index].get_submodule(path)
        weight, bias = in_out_weight(projection), getattr(projection, "bias", None)
        if weight.shape[0] < weight.shape[1]:  # moments hold no δ wider than x
            return
        moments, entered = self._moments(weight.shape[0], weight.shape[1]), []
        with ExitStack() as hooks:
            enters = projection.register_forward_pre_hook(lambda _module, args: entered.append(args[0]))
            hooks.callback(enters.remove)
            for number, states in self._run_cut(index, parts):
                assert states.attention is not None
                stream = states.x + states.attention if unit.part == "attention" else states.y
                _add(moments, entered.pop(), self._target(unit, number) - stream, self.batches[number])
        regression = Regression.of(moments, intercept=bias is not None)
        if regression.totals[-1] > 0:
            fitted = fit(regression, ridge="auto")
            constant = None if bias is None else fitted.mean_delta - fitted.mean_x @ fitted.b
            change = self.healed.changes[unit] = Change(path, fitted.b, constant, fitted)
            undo.callback(_put, projection, weight.clone(), None if bias is None else bias.clone())
            add_change(projection, change)

    def _run_cut(self, index: int, parts: Mapping[tuple[int, Part], Any]) -> Iterator[tuple[int, BlockStates]]:
        """The number of each batch and the states of the cut decoder around a block, as far as it is healed."""
        for number, batch in enumerate(self.batches):
            found: list[BlockStates] = []
            with nullcontext() if self.subs is None else self.subs.of(parts):
                inputs = (batch.input_ids, None, None)
                state = self.cut[number] if index else None
                self.one.run_block(index, state, inputs, lambda _, states: found.append(states), self.sub_blocks)  # noqa: B023
            yield number, found[0]

    def _moments(self, width: int, width_delta: int | None = None) -> Moments:
        return Moments(width, width_delta, folds=self.folds, device=self.like.device)


def add_change(projection: nn.Module, change: Change) -> None:
    """W + ΔW and b + Δb, summed in float64 and rounded once."""
    weight, bias = in_out_weight(projection).detach(), getattr(projection, "bias", None)
    new = weight.double() + change.weight.to(weight.device)
    _put(projection, new, None if bias is None or change.bias is None else bias.double() + change.bias.to(bias.device))


@torch.no_grad()
def _put(projection: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    in_out_weight(projection).copy_(weight)
    if bias is not None:
        projection.bias.copy_(bias)  # type: ignore[operator]


def _add(moments: Moments, x: Tensor, delta: Tensor, batch: Tokens) -> None:
    """The rows of a batch, which is of one fold."""
    fold = 0 if batch.folds is None else int(batch.folds[0])
    moments.update(x.flatten(0, -2), delta=delta.flatten(0, -2), fold=fold)
