"""What each block of a scored model holds: parameters, and keys and values of every token in a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from linscore.decoder.cached import block_kv_bytes
from linscore.decoder.find import Decoder
from linscore.scoring.report import BlockReport
from linscore.scoring.ways import Way

__all__ = ["kept_in_cache", "with_holds"]


def kept_in_cache(decoder: Decoder, way: Way) -> dict[int, int]:
    """By block, bytes a token in a cache; empty where the model keeps none, or none that can be counted here."""
    found: dict[int, int] = {}
    with suppress(Exception), way.trying() as trying:  # whatever a family raises: the scores do not need it
        found = block_kv_bytes(decoder, stood_in=len(trying.blocks) < len(decoder.blocks))
    return found


def with_holds(blocks: Sequence[BlockReport], decoder: Decoder, kept: Mapping[int, int]) -> list[BlockReport]:
    """The same, with what each block holds."""
    numbers = [sum(parameter.numel() for parameter in block.parameters()) or None for block in decoder.blocks]
    return [replace(one, parameters=numbers[one.index], kv_bytes=kept.get(one.index)) for one in blocks]
