"""Tile shapes of the Gram kernel per architecture, from launch_parameters.json, with a heuristic for the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class GramLaunch:
    """How the Gram kernel is compiled."""

    block_m: int  # rows of an output tile: columns of x
    block_n: int  # columns of an output tile: columns of x or δ
    block_k: int  # tokens per step
    warps: int
    stages: int
    descriptors: bool  # load through tensor descriptors (TMA) rather than pointers
    halves: bool = False  # store the tile in two halves
    flush: int = 0  # tokens after which the tensor core's running sum is added to a rounded one; 0: never


@cache
def launch_table() -> dict[int, dict[str, GramLaunch]]:
    """Compute capability (10·major + minor) → "raw" and "split" → launch."""
    text = files("linscore_kernels").joinpath("launch_parameters.json").read_text()
    table = json.loads(text)["gram"]
    return {int(capability): {path: GramLaunch(**v) for path, v in row.items()} for capability, row in table.items()}


def gram_launch(capability: int, d: int, split: bool) -> GramLaunch:
    """The entry of the nearest architecture at or below `capability`, narrowed where `d` is less than a tile.

    Below all of them, as on the CPU, whose interpreter has no limits, the oldest entry serves.
    """
    table = launch_table()
    nearest = max((known for known in table if known <= capability), default=min(table))
    return narrowed(table[nearest]["split" if split else "raw"], d)


def narrowed(launch: GramLaunch, d: int) -> GramLaunch:
    """The same launch with tiles no wider than `d` needs; 64 stays the least that a warp group multiplies."""
    needed = max(64, 1 << (d - 1).bit_length())
    if needed >= max(launch.block_m, launch.block_n):
        return launch
    smaller = replace(launch, block_m=min(launch.block_m, needed), block_n=min(launch.block_n, needed))
    return replace(smaller, warps=4) if needed == 64 else smaller
