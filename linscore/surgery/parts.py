"""Attention or MLP taken out of blocks, and maps put in their place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.cached import cached_states
from linscore.decoder.call import evaluating, probe_tokens, uncompiled
from linscore.decoder.find import Decoder
from linscore.decoder.in_use import in_use
from linscore.decoder.run import states_on
from linscore.decoder.stand_ins import kinds
from linscore.decoder.states import SubBlocks
from linscore.decoder.sub_blocks import find_sub_blocks
from linscore.errors import LinscoreError, reason
from linscore.models.linear_block import LinearBlock
from linscore.models.linear_parts import make_partly_linear, number_slots
from linscore.statistics.affine import AffineMap
from linscore.surgery.part_places import Call, Place, alike, calls_of, find_idle, find_places, giving

__all__ = ["number_attentions", "replace_parts", "sub_blocks_of"]

Parts = Mapping[str, AffineMap | None]  # "attention" or "mlp" to its map; None where it goes


def sub_blocks_of(decoder: Decoder) -> SubBlocks:
    """Where the blocks of a decoder give what their attention and MLP add, as found before any of them went.

    Raises:
        LinscoreError: as `find_sub_blocks`.
    """
    about = getattr(getattr(decoder.model, "config", None), "linscore", None) or {}
    if "sub_blocks" in about:
        return SubBlocks(**about["sub_blocks"])
    return find_sub_blocks(decoder, [i for i, block in enumerate(decoder.blocks) if not isinstance(block, LinearBlock)])


def replace_parts(decoder: Decoder, sub_blocks: SubBlocks, wanted: Mapping[int, Parts]) -> None:
    """Replaces parts of some blocks in place; `number_attentions` is to be called then.

    Args:
        decoder: changed in place.
        sub_blocks: from `sub_blocks_of`, of this decoder before anything of it was replaced.
        wanted: index of a block to the parts that are replaced.

    Raises:
        LinscoreError: if a block does not run without the part, or something else changes than what it adds.
    """
    known: dict[Any, tuple[dict[str, Place], dict[str, int | None]]] = {}
    same, calls = kinds(decoder.blocks), calls_of(decoder, wanted)
    with in_use(decoder), uncompiled(), evaluating(decoder.model):
        for index, parts in sorted(wanted.items()):
            block, call, kind = decoder.blocks[index], calls[index], (same[index], *sorted(parts))
            if isinstance(block, LinearBlock):
                raise LinscoreError(f"block {index} of {decoder.name} is a linear map: it has no attention, and no MLP")
            try:
                if kind not in known:
                    places = find_places(block, call, sub_blocks)
                    new = [places[part] for part in parts if part not in getattr(block, "parts", ())]
                    known[kind] = places, find_idle(block, call, new) if new else {}
                _replace(block, call, sub_blocks.parallel, parts, *known[kind])
            except (LinscoreError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # whatever a family's own code raises without what it counts on
                raise LinscoreError(
                    f"{decoder.name}: block {index} does not run without its {' and '.join(parts)} ({reason(error)}): "
                    "it has to stay"
                ) from error


def _replace(
    block: Any, call: Call, parallel: bool, parts: Parts, places: Mapping[str, Place], idle: Mapping[str, int | None]
) -> None:
    """Puts stand-ins into a block, and makes sure that it computes what its own code does with their δ."""
    expected = _overwritten(block, call, parallel, parts, places)
    entry: dict[str, Any] = {"idle": dict(idle)}
    for part, fitted in parts.items():
        place = places[part]
        form = {"factors": None, "rank": None} if fitted is None else _described(fitted)
        # The rest need not be handed the state: nothing is read of it.
        entering = (part == "attention" or parallel) and (place.within or bool(form["factors"]))
        entry[part] = form | {"at": place.at, "entries": place.entries, "entering": entering, "within": place.within}
    make_partly_linear(block, entry, call.x.shape[-1])
    for part, stand_in in block.stand_ins().items():
        fitted = parts.get(part)
        if fitted is not None:
            stand_in.fitted.take(fitted.factors_by_name(), fitted.mean_x, fitted.mean_delta)
    if not alike(call.of(block), expected):
        raise LinscoreError(
            f"{block.family.__name__} computes something else once its {' and '.join(parts)} are replaced: "
            "they have to stay"
        )


def _overwritten(block: nn.Module, call: Call, parallel: bool, parts: Parts, places: Mapping[str, Place]) -> Tensor:
    """What a block gives where hooks overwrite what its parts add by what the maps say."""
    added: dict[str, Tensor] = {}

    def overwrite(part: str, output: Any) -> Any:
        x = call.x if part == "attention" or parallel else call.x + added["attention"]
        if part not in parts:
            added[part] = places[part].added(output, x)
            return output
        added[part] = _delta(parts[part], x)
        return places[part].overwritten(output, x, added[part])

    with giving(block, {place.path: partial(overwrite, part) for part, place in places.items()}):
        return call.of(block)


def _delta(fitted: AffineMap | None, x: Tensor) -> Tensor:
    if fitted is None:
        return torch.zeros_like(x)
    moved = x.cpu().double() - fitted.mean_x.cpu()  # since not every device has float64
    return (moved @ fitted.b.cpu() + fitted.mean_delta.cpu()).to(x)


def number_attentions(decoder: Decoder) -> None:
    """Moves the attentions that are left to the first slots of a cache, and makes sure that this changes nothing.

    Raises:
        LinscoreError: if states change with the slot, or differ with a cache and without.
    """
    tokens, last = probe_tokens(decoder), len(decoder.blocks) - 1
    before = states_on(decoder, tokens)[last].y
    config: Any = getattr(decoder.model, "config", None)
    kinds_of_slots = getattr(config.get_text_config(), "layer_types", None) if config is not None else None
    number_slots(decoder.blocks, kinds_of_slots)
    if not alike(states_on(decoder, tokens)[last].y, before):
        raise LinscoreError(
            f"{decoder.name} computes something else with its keys in another slot of the cache: leave the attention in"
        )
    whole, cache = cached_states(decoder, tokens)
    if cache is not None:
        pieces, _ = cached_states(decoder, tokens[:, :4], tokens[:, 4:])
        if _moved(pieces[1], whole[0][:, 4:]) > max(1e-3, 16 * torch.finfo(pieces[1].dtype).eps):
            raise LinscoreError(f"{decoder.name} computes something else with a cache once these parts are gone")


def _moved(found: Tensor, expected: Tensor) -> float:
    """Relative change of the median token: one that goes to another expert does not count."""
    change = (found - expected).float().norm(dim=-1) / expected.float().norm(dim=-1).clamp_min(1e-30)
    return float(torch.nan_to_num(change).median())


def _described(fitted: AffineMap) -> dict[str, Any]:
    """What a configuration says of the map, as `LinearMap.describe` does."""
    found = fitted.factors_by_name()
    return {"factors": list(found), "rank": found["down"].shape[1] if "down" in found else None}
