"""What a checkpoint declares, compared with what its folder holds before anything is built: headers only, no weights.

A configuration is a few lines that anyone can write. A model of the sizes that it declares would be built, and its
weights initialized, before transformers finds that those in the folder have other shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from linscore.errors import LinscoreError
from linscore.files.json_file import MOST_BYTES, read_json

__all__ = ["Weights", "check_counts", "check_depth", "check_files", "check_size", "find_weights"]

USUAL = 1_000  # layers, or experts of a layer, that are believed without a look; decoders have some 200, or 400
PARAMETERS_PER_BYTE = 8  # of weights that are quantized to one bit
_COUNTS = re.compile(r"(layers?|experts|blocks)$")  # num_hidden_layers, n_layer, decoder_layers, num_local_experts, …


@dataclass(frozen=True)
class Weights:
    """The files of weights in a folder."""

    tensors: int  # at most: of pickled weights only the size is known
    size: int  # bytes


def check_files(folder: Path) -> None:
    """Make sure that what transformers opens in a folder are files of it, of which none is waited for.

    Symbolic links are followed: they are the doing of whoever keeps the folder, and the Hub's cache consists of them.

    Raises:
        LinscoreError: for a pipe or a device, a configuration that is too large, or an index that names files
            elsewhere.
    """
    for path in folder.iterdir():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise LinscoreError(f"{path} is no regular file: remove it, or give another model")
        if path.name.startswith("config") and path.is_file() and path.stat().st_size > MOST_BYTES:
            raise LinscoreError(f"{path} has more than {MOST_BYTES:,} bytes: get the model anew")
        if path.name.endswith(".index.json"):
            index = read_json(path, dict[str, Any], damaged="is damaged: get the model anew")
            names = index.get("weight_map") or {}
            for name in names.values() if isinstance(names, dict) else [names]:
                if not isinstance(name, str) or Path(name).name != name:
                    raise LinscoreError(f"{path} names {name!r}, no file beside it: get the model anew")


def find_weights(folder: Path) -> Weights | None:
    """How many tensors a folder has, and of which size; None without weights. What is damaged raises as it may."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return Weights(sum(map(_tensors, files)), sum(path.stat().st_size for path in files))
    size = sum(path.stat().st_size for path in folder.glob("*.bin"))
    return Weights(size // 64, size) if size else None  # a pickled tensor has a record of 64 bytes and more


def check_counts(values: Mapping[str, Any], weights: Weights | None, source: str) -> None:
    """Make sure, before a configuration is made of its keys, that lists as long as it says can be made.

    Raises:
        LinscoreError: for more layers or experts than there are tensors, beyond what is usual.
    """
    most = max(USUAL, 0 if weights is None else weights.tensors)
    for key, value in _counts(values):
        if value > most:
            raise _more(source, f"{key}={value:,}", weights)


def check_depth(config: Any, weights: Weights, source: str) -> None:
    """Make sure that every layer can have a tensor.

    Raises:
        LinscoreError: for more layers than tensors.
    """
    depth = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(depth, int) and depth > weights.tensors:
        raise _more(source, f"{depth:,} layers", weights)


def check_size(model: nn.Module, weights: Weights, source: str) -> None:
    """Make sure that a model, built without memory, is not larger than the weights that it is to have.

    Raises:
        LinscoreError: if it is.
    """
    declared = sum(parameter.numel() for parameter in model.parameters())
    if declared > PARAMETERS_PER_BYTE * weights.size:
        raise LinscoreError(
            f"the configuration of {source} describes {declared:,} parameters, but its weights have {weights.size:,} "
            "bytes: get the model anew"
        )


def _tensors(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return len(file.keys())


def _counts(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """What a configuration, or one inside it, counts."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif type(value) is int and _COUNTS.search(key):
            yield key, value


def _more(source: str, what: str, weights: Weights | None) -> LinscoreError:
    there = "no decoder has so many" if weights is None else f"its weights are {weights.tensors:,} tensors"
    return LinscoreError(f"the configuration of {source} says {what}, but {there}: get the model anew")
