"""Drop blocks, so that what is left is a plain transformers model: built from its configuration, filled, and tried.

h_j replaces h_i for the blocks i … j−1 that go: a survivor reads what the survivor before it wrote.
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder, find_decoder
from linscore.decoder.run import bypass, states_on
from linscore.decoder.wrapped import check_own_modules
from linscore.errors import LinscoreError, all_of, reason
from linscore.surgery.structure import check_structure, cut_config, depth_fields, original_name

__all__ = ["cut_on_paper", "drop_blocks"]

MODES = ("training", "gradient_checkpointing", "_gradient_checkpointing_func")


def drop_blocks(decoder: Decoder, blocks: Collection[int], *, share: bool = False) -> Decoder:
    """The decoder of a new model without these blocks; the given one stays as it is.

    Args:
        decoder: of a model of transformers, whole and on one device.
        blocks: indices of the blocks that go, in any order; the survivors are numbered from 0 again.
        share: let both models hold the same tensors, which neither may change then.

    Raises:
        LinscoreError: as `drop`.
    """
    model = _plain(decoder.model, decoder.name)
    survivors, cut = cut_on_paper(decoder, blocks)
    _fill(cut, model, decoder.path, survivors, share)
    if model.can_generate():
        cut.generation_config = copy.deepcopy(model.generation_config)
    return _checked(decoder, cut, survivors)


def cut_on_paper(decoder: Decoder, blocks: Collection[int]) -> tuple[list[int], PreTrainedModel]:
    """The blocks that stay, and the cut model without values; `decoder` needs none either.

    Raises:
        LinscoreError: as `drop`, for what can be seen without weights.
    """
    survivors = _survivors(decoder, blocks)
    cut = _empty(decoder, survivors)
    check_structure(cut, decoder.model, decoder.path, survivors)
    return survivors, cut


def _plain(model: nn.Module, name: str) -> PreTrainedModel:
    check_own_modules(model, name)
    if not isinstance(model, PreTrainedModel):
        raise LinscoreError(f"{type(model).__name__} is no transformers model: drop its blocks by hand")
    if getattr(model, "hf_quantizer", None) is not None:
        raise LinscoreError(f"{name} is quantized: drop the blocks first, then quantize what is left")
    devices = sorted({str(tensor.device) for tensor in model.parameters()})
    if len(devices) > 1 or "meta" in devices:
        raise LinscoreError(f"{name} is spread over {', '.join(devices)}: load it whole on one device")
    return model


def _survivors(decoder: Decoder, blocks: Collection[int]) -> list[int]:
    count = len(decoder.blocks)
    all_of("blocks", blocks, Integral, "whole numbers")
    gone = set(blocks)
    missing = sorted(gone - set(range(count)))
    if missing:
        raise LinscoreError(f"{decoder.name} has no blocks {missing}: choose from 0 to {count - 1}")
    if len(gone) != len(blocks):
        raise LinscoreError(f"blocks {sorted(blocks)} are given more than once: name each block once")
    if len(gone) == count:
        raise LinscoreError(f"all {count} blocks of {decoder.name} would go: leave at least one")
    return [index for index in range(count) if index not in gone]


def _empty(decoder: Decoder, survivors: Sequence[int]) -> PreTrainedModel:
    """The cut model without values, built by its own class from the first configuration that gives as many blocks."""
    model: Any = decoder.model
    depth = len(decoder.blocks)
    failed: Exception | None = None
    for fields in depth_fields(model.config, depth):
        built = _built(model, survivors, depth, fields)
        if isinstance(built, Exception):
            failed = failed or built
        elif len(built.get_submodule(decoder.path)) == len(survivors):  # type: ignore[arg-type]
            return built
    why = "no field of its configuration says how many blocks there are" if failed is None else reason(failed)
    raise LinscoreError(f"{type(model).__name__} cannot be built without these blocks ({why})") from failed


def _built(model: Any, survivors: Sequence[int], depth: int, fields: Sequence[str]) -> PreTrainedModel | Exception:
    """The model of a sliced configuration, or why there is none: a family's own code may raise anything."""
    try:
        config = cut_config(model.config, survivors, depth, fields)
        with torch.device("meta"):
            return type(model)(config)
    except LinscoreError:
        raise
    except Exception as error:
        return error


def _fill(cut: PreTrainedModel, model: PreTrainedModel, path: str, survivors: Sequence[int], share: bool) -> None:
    """Copies tensors and modes, module by module; a tensor with two names is copied once, which keeps ties."""
    copies: dict[int, Tensor] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in cut.named_modules():
        source = modules[original_name(name, path, survivors)]
        for key, tensor in _tensors(source):
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor if share else _copy(tensor)
            setattr(module, key, copies[id(tensor)])
        for mode in MODES:
            if mode in vars(source):
                setattr(module, mode, vars(source)[mode])


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers (those of rotary embeddings are in no state_dict) and tensors that are mere attributes."""
    for values in (module._parameters, module._buffers, vars(module)):
        yield from ((key, value) for key, value in values.items() if isinstance(value, Tensor))


def _copy(tensor: Tensor) -> Tensor:
    values = tensor.detach().clone()
    return nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def _checked(decoder: Decoder, cut: PreTrainedModel, survivors: Sequence[int]) -> Decoder:
    """The decoder of a cut model, once a few tokens ran through both: a rule of the index in a forward would show.

    Raises:
        LinscoreError: if a survivor's output differs from the original's with the dropped blocks bypassed.
    """
    with bypass(decoder, set(range(len(decoder.blocks))) - set(survivors)):
        expected = states_on(decoder, probe_tokens(decoder))
    shallow = find_decoder(cut)
    found = states_on(shallow, probe_tokens(shallow))
    for new, old in enumerate(survivors):
        before, after = expected[old].y, found[new].y
        size = float(torch.nan_to_num(before, 0.0, 0.0, 0.0).abs().max())
        tolerance = max(1e-4, 4 * torch.finfo(before.dtype).eps) * size
        if not torch.allclose(after, before, rtol=0, atol=tolerance, equal_nan=True):
            raise LinscoreError(
                f"{decoder.name}: block {old} computes something else as block {new}: this family depends on the "
                "index of its blocks, so these cannot be dropped"
            )
    return shallow
