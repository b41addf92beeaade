"""What can be chosen: every unit of a decoder with its maps, from one pass over a text and some gradients before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from linscore.compression.choices import Form
from linscore.compression.expected import Expected
from linscore.compression.forms import Row
from linscore.compression.holds import unit_parameters
from linscore.decoder.find import Decoder
from linscore.decoder.states import SubBlocks
from linscore.errors import LinscoreError
from linscore.machine.memory import is_out_of_memory
from linscore.options.score import ScoreOptions
from linscore.scoring.collect import Collector
from linscore.scoring.expected import of_unit
from linscore.scoring.names import MomentsName
from linscore.scoring.sensitivity import take_gradients
from linscore.spans import Unit
from linscore.statistics.moments import Moments
from linscore.text.batch import Batch

GRADIENTS = 4096  # tokens: beyond them the order of units stays (results: What predicts the damage)


def unit_rows(
    decoder: Decoder,
    fit: Sequence[Batch],
    sub_blocks: SubBlocks | None,
    folds: int,
    say: Callable[[str], None],
    *,
    gradients: bool = True,
) -> dict[Unit, Row]:
    """All units, with the moments of what they read and add, and what gradients of the loss say of them.

    Args:
        decoder: with its language-model head.
        fit: batches of a text, in folds.
        sub_blocks: from `find_sub_blocks`; None where only whole blocks can go.
        folds: of the text.
        say: takes a line where no gradient can be had.
        gradients: whether they are taken.
    """
    asked = ScoreOptions(folds=folds, sub_blocks=sub_blocks is not None)
    collector, taken = _with_gradients(decoder, asked, fit, say) if gradients else (Collector(decoder, asked), {})
    for batch in fit:
        collector.add(batch)
    return rows_of(decoder, sub_blocks, collector.moments | taken)


def rows_of(decoder: Decoder, sub_blocks: SubBlocks | None, moments: Mapping[str, Moments]) -> dict[Unit, Row]:
    """All units, from the moments of a score by name."""
    like = next(p for p in decoder.blocks.parameters() if p.dtype in (torch.float32, torch.bfloat16, torch.float16))
    rows = {}
    for unit, parameters in sorted(unit_parameters(decoder, sub_blocks).items()):
        rows[unit] = Row(unit, moments[str(MomentsName.of(unit))], like, parameters, _sensitivity(moments, unit))
    return rows


def expected_of(rows: Mapping[Unit, Row]) -> Expected:
    """What forms are thought to add before one is measured: by gradients, where they were taken."""

    @cache
    def nats(unit: Unit, form: Form) -> float:
        return rows[unit].expected(form)

    if all(row.has_gradients for row in rows.values()):
        return Expected(nats, in_nats=True)
    return Expected(lambda unit, form: rows[unit].missed(form))


def _with_gradients(
    decoder: Decoder, asked: ScoreOptions, fit: Sequence[Batch], say: Callable[[str], None]
) -> tuple[Collector, dict[str, Moments]]:
    """A collector that takes what units add, too, and the moments of gradients; without them where none come through.

    They are of a bounded number of tokens, whatever the text.
    """
    collector = Collector(decoder, asked, sensitivity=GRADIENTS)
    try:
        return collector, take_gradients(collector, fit)[0].moments
    except Exception as error:
        if not (isinstance(error, LinscoreError) or is_out_of_memory(error)):
            raise
        why = str(error).rpartition(": ")[0] if isinstance(error, LinscoreError) else "they need too much memory"
    say(f"without gradients of the loss more is tried: {why}")
    return Collector(decoder, asked), {}


def _sensitivity(moments: Mapping[str, Moments], unit: Unit) -> tuple[Tensor, Moments] | None:
    """E[ggᵀ] behind a unit, and the moments of what it adds."""
    if str(MomentsName.of(unit).added) not in moments:
        return None
    gradient, _, added = of_unit(moments, unit)
    return gradient, added
