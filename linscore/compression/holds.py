"""What each unit of a decoder holds: how many parameters go with it."""

from __future__ import annotations

from linscore.decoder.call import evaluating, uncompiled
from linscore.decoder.find import Decoder
from linscore.decoder.stand_ins import kinds
from linscore.decoder.states import SubBlocks
from linscore.spans import PARTS, Span, Unit
from linscore.surgery.part_places import calls_of, find_idle, find_places


def unit_parameters(decoder: Decoder, sub_blocks: SubBlocks | None) -> dict[Unit, int]:
    """How many parameters go with each block and, given `sub_blocks`, with each part of one; tried once a kind."""
    blocks, same = decoder.blocks, kinds(decoder.blocks)
    found = {Unit(Span(i, i)): sum(p.numel() for p in block.parameters()) for i, block in enumerate(blocks)}
    if sub_blocks is None:
        return found
    calls, gone = calls_of(decoder, set(same)), {}
    with evaluating(decoder.model), uncompiled():
        for kind, call in calls.items():
            places = find_places(blocks[kind], call, sub_blocks)
            for part in PARTS:
                gone[kind, part] = {places[part].at, *find_idle(blocks[kind], call, [places[part]])}
    for index, kind in enumerate(same):
        for part in PARTS:
            children = [blocks[index].get_submodule(name) for name in gone[kind, part]]
            found[Unit(Span(index, index), part)] = sum(p.numel() for child in children for p in child.parameters())
    return found
