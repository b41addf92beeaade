"""Put affine maps in the place of a model's blocks, and of attention or MLP of single blocks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import combinations
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.run import run
from linscore.decoder.states import SubBlocks
from linscore.decoder.wrapped import check_own_modules
from linscore.errors import LinscoreError, all_of
from linscore.models.linear_block import LinearBlock, replacement
from linscore.models.linear_model import MODULE, linearized_class
from linscore.models.linear_parts import PartlyLinear, keep_whole, without_attention
from linscore.spans import Span, Unit, after
from linscore.statistics.affine import AffineMap
from linscore.surgery.drop_blocks import drop_blocks
from linscore.surgery.parts import number_attentions, replace_parts, sub_blocks_of

Model = TypeVar("Model", bound=nn.Module)


def linearize(model: Model, maps: Mapping[Any, AffineMap]) -> Model:
    """A copy of a decoder in which affine maps stand in for some blocks, or for attention or MLP of some.

    It generates with a cache, pads, checkpoints and moves as the model does. A span's first block becomes the linear
    one and its others are dropped, so that the copy has fewer blocks; without longer spans it has the same
    configuration and hooks. Linear blocks return no attention weights.

    The copy of a transformers model is saved by `save_pretrained` and loaded again by `linscore.load`, or without
    linscore by `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`. `config.linear_blocks` and
    `config.linscore` say what it holds.

    Args:
        model: stays as it is.
        maps: index of a block, a span of blocks, or a part of a block such as "3.mlp", to the map that replaces it, an
            AffineMap or what `fit_block_map` returns; that of a part from the moments "block.3.mlp".

    Raises:
        LinscoreError: for an index or a width that does not fit, spans that overlap, or a model with adapters or one
            that accelerate has spread over devices; with longer spans and parts, whatever `drop` refuses.

    Examples:
        >>> fitted = linscore.fit_block_map(report.moments["block.3"], ridge="auto")
        >>> linear = linscore.linearize(model, {3: fitted})
        >>> linear.save_pretrained("linear")
        >>> linscore.load("linear").config.linear_blocks[3] is not None
        True
    """
    all_of("maps", maps, int | str | Span | Unit, "blocks, each with its map")
    all_of("maps", maps.values(), AffineMap, "blocks, each with its map")
    return replace_units(model, maps)


def replace_units(model: Model, stand_ins: Mapping[Any, AffineMap | None], *, share: bool = False) -> Model:
    """A copy of a decoder in which some units are dropped, and affine maps stand in for others.

    `drop` is this with nothing in the place of each unit, `linearize` with a map for each.

    Args:
        model: stays as it is.
        stand_ins: a `Unit`, or what `Unit.of` takes, to the map that replaces it; None where it goes.
        share: let both models hold the same tensors, which neither may change then.

    Raises:
        LinscoreError: as `drop` and `linearize`.
    """
    units = {Unit.of(key): fitted for key, fitted in stand_ins.items()}
    whole = find_decoder(model)
    _check(whole, list(stand_ins), units)
    parts = {unit: fitted for unit, fitted in units.items() if unit.part}
    spans = {unit.span: fitted for unit, fitted in units.items() if fitted is not None and not unit.part}
    gone = [i for unit, fitted in units.items() if not unit.part for i in unit.span.blocks[fitted is not None :]]
    sub_blocks = sub_blocks_of(whole) if parts else None
    decoder = drop_blocks(whole, gone, share=share) if gone else find_decoder(_copied(whole.model, share))
    linear: Any = decoder.model
    if spans:
        _put_blocks(decoder, {after(span.first, gone): fitted for span, fitted in spans.items()})
    if sub_blocks is not None:
        wanted: dict[int, dict[str, AffineMap | None]] = {}
        for unit, fitted in parts.items():
            wanted.setdefault(after(unit.span.first, gone), {})[unit.part] = fitted
        replace_parts(decoder, sub_blocks, wanted)
    if any(map(without_attention, (*whole.blocks, *decoder.blocks))):
        number_attentions(decoder)
    if (spans or parts) and isinstance(linear, PreTrainedModel):
        _make_loadable(linear, decoder, sub_blocks)
    return linear


def _copied(model: nn.Module, share: bool) -> nn.Module:
    """A copy of a model; the tensors are the same where they are to be shared."""
    tensors = [*model.parameters(), *model.buffers()] if share else []
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _put_blocks(decoder: Decoder, maps: Mapping[int, AffineMap]) -> None:
    """Puts linear blocks in the place of some blocks."""
    lengths = _output_lengths(decoder)
    for index, fitted in maps.items():
        means = (fitted.mean_x, fitted.mean_delta)
        decoder.blocks[index] = replacement(
            decoder.blocks[index], fitted.factors_by_name(), *means, slot=index, entries=lengths[index]
        )


def _check(decoder: Decoder, keys: list[Any], units: Mapping[Unit, AffineMap | None]) -> None:
    check_own_modules(decoder.model, decoder.name)
    count = len(decoder.blocks)
    missing = sorted({index for unit in units for index in unit.span if not 0 <= index < count})
    if missing:
        raise LinscoreError(f"{decoder.name} has no blocks {missing}: choose from 0 to {count - 1}")
    if any(a.overlaps(b) for a, b in combinations(units, 2)) or len(units) < len(keys):
        raise LinscoreError(f"blocks {', '.join(map(str, keys))} overlap: name each part of a block once")
    for unit, fitted in units.items():
        if fitted is not None and fitted.b.shape != (decoder.width, decoder.width):
            raise LinscoreError(
                f"the map for block {unit} has shape {list(fitted.b.shape)}, but {decoder.name} has width "
                f"{decoder.width}: take the moments from this model"
            )
    if type(decoder.model).__module__.endswith(f".{MODULE}"):
        raise LinscoreError(f"{decoder.name} was loaded with the code in its folder: load it by linscore.load")
    if any(hasattr(block, "_hf_hook") for block in decoder.blocks):
        raise LinscoreError(f"{decoder.name} is spread over devices by accelerate: load it without device_map")


def _make_loadable(linear: PreTrainedModel, decoder: Decoder, sub_blocks: SubBlocks | None) -> None:
    """Let the model's class and configuration say what it holds, so that it is saved and loaded as any other."""
    family: Any = type(linear)
    kind: Any = linearized_class(family)
    linear.__class__ = kind
    config: Any = linear.config
    config.linscore = getattr(config, "linscore", {}) | {
        "architecture": kind.family.__name__,
        "model_type": config.model_type,
        "path": decoder.path,
        "width": decoder.width,
    }
    if sub_blocks is not None:
        config.linscore["sub_blocks"] = asdict(sub_blocks)
    # One entry for each block: what slices a configuration's lists when blocks go slices this one too.
    config.get_text_config().linear_blocks = [
        block.describe() if isinstance(block, LinearBlock | PartlyLinear) else None for block in decoder.blocks
    ]
    keep_whole(linear, decoder.blocks)


def _output_lengths(decoder: Decoder) -> list[int | None]:
    """How long a tuple each block returns, None for a tensor, by trying."""
    lengths: list[int | None] = [None] * len(decoder.blocks)

    def keep(index: int, _block: nn.Module, _args: Any, output: Any) -> None:
        lengths[index] = len(output) if isinstance(output, tuple) else None

    with ExitStack() as hooks:
        for index, block in enumerate(decoder.blocks):
            hooks.callback(block.register_forward_hook(partial(keep, index)).remove)
        run(decoder, probe_tokens(decoder))
    return lengths
