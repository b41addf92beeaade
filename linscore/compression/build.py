"""A model of its own from what was found: units replaced, projections changed."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from linscore.compression.heal import Healed, add_change
from linscore.decoder.find import find_decoder
from linscore.spans import after, indices
from linscore.surgery.linearize import replace_units

Model = TypeVar("Model", bound=nn.Module)


def built(model: Model, healed: Healed) -> Model:
    """A copy of a model with maps in the place of units, and what is left of it healed; the given one stays.

    Raises:
        LinscoreError: as `replace_units`.
    """
    cut = replace_units(model, healed.maps)
    gone = indices(unit.span for unit, fitted in healed.maps.items() if fitted is None and not unit.part)
    blocks = find_decoder(cut).blocks
    for unit, change in healed.changes.items():
        add_change(blocks[after(unit.span.first, gone)].get_submodule(change.path), change)
    return cut
