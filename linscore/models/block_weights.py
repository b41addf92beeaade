"""Weights of a decoder's blocks that stay on disk until a block runs, the next one being read while it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

from linscore.decoder.find import Decoder

Place = tuple[Mapping[str, Tensor], str]  # where a tensor is read, and by which name


class BlockWeights:
    """Reads one block's weights at a time, from the files that a model was loaded from.

    Args:
        decoder: of a model that was loaded with its blocks on "disk" in its `device_map`. accelerate's hooks, which
            would read a block anew for every batch, are taken off it.
        device: where blocks run.
    """

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self._blocks, self._device = decoder.blocks, device
        self._places = [_places(block) for block in decoder.blocks]
        remove_hook_from_module(decoder.model, recurse=True)
        self._reader = ThreadPoolExecutor(1, "linscore-weights")
        self._ahead: tuple[int, Future[dict[str, Tensor]]] | None = None

    @contextmanager
    def loaded(self, index: int, ahead: int | None = None) -> Iterator[None]:
        """Block `index` has its weights until the context is left; those of block `ahead` are being read meanwhile."""
        read = self._ahead[1].result() if self._ahead and self._ahead[0] == index else self._read(index)
        self._ahead = None
        self._put(index, read)
        del read  # the block has it, and lets go of it below
        if ahead is not None:
            self._ahead = ahead, self._reader.submit(self._read, ahead)
        try:
            yield
        finally:
            self._put(index, None)

    def _read(self, index: int) -> dict[str, Tensor]:
        read = {name: weights[key] for name, (weights, key) in self._places[index].items()}
        return {name: tensor.pin_memory() for name, tensor in read.items()} if self._device.type == "cuda" else read

    def _put(self, index: int, read: Mapping[str, Tensor] | None) -> None:
        """Give block `index` what was read of it; with None, nothing is left of that."""
        where = "meta" if read is None else self._device
        for name in self._places[index]:
            set_module_tensor_to_device(self._blocks[index], name, where, value=None if read is None else read[name])


def _places(block: nn.Module) -> dict[str, Place]:
    """For each tensor of a block that is on disk, by its name in the block, where it is read."""
    found: dict[str, Place] = {}
    for path, module in block.named_modules():
        weights = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        for name, tensor in module.named_parameters(recurse=False):
            if weights is not None and tensor.is_meta:
                found[f"{path}.{name}".lstrip(".")] = weights, name
    return found


def on_disk(decoder: Decoder, device: torch.device) -> dict[str, str]:
    """A `device_map` of a decoder: its blocks on disk, everything else on the device."""
    model, path = decoder.model, decoder.path.split(".")
    places = {f"{decoder.path}.{index}": "disk" for index in range(len(decoder.blocks))}
    for depth in range(len(path)):
        above = ".".join(path[:depth])
        beside = model.get_submodule(above).named_children()
        places |= {f"{above}.{name}".lstrip("."): str(device) for name, _ in beside if name != path[depth]}
    return places
