"""How the products are launched on each architecture, from table.json, with a heuristic for the rest.

Three paths: "single" and "split" are the Gram products over operands of one or two 16-bit parts, "residual" the product
of residual_norms. `tune.py` measures an architecture and rewrites its entry.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from math import log2
from pathlib import Path

PATHS = ("single", "split", "residual")
# A program for each tile; persistent ones that go from tile to tile, in two loops or in one, or with a warp that loads.
KERNELS = ("tile", "nested", "flattened", "gluon")
TABLE = Path(__file__).with_name("table.json")
# The widths that are measured; others follow the nearest. 96·2^k because models are built of heads 64, 96 and 128 wide.
LADDER = tuple(sorted([32 << k for k in range(10)] + [96 << k for k in range(8)]))


@dataclass(frozen=True)
class Launch:
    """How a product kernel is compiled."""

    block_m: int  # rows of an output tile
    block_n: int  # columns of an output tile
    block_k: int  # steps of the reduction axis: tokens for the Gram products, columns of x for the residual
    warps: int
    stages: int
    descriptors: bool  # load through tensor descriptors (TMA) rather than pointers
    halves: bool = False  # finish the tile in two halves, where the whole one spills
    flush: int = 0  # tokens after which the tensor core's running sum is added to a rounded one; 0: never
    kernel: str = "tile"  # of the Gram products: of KERNELS
    group: int = 8  # and the rows of their tiles that run together, so that their operands meet in L2


@dataclass(frozen=True)
class Entry:
    """What is known of one path on one architecture."""

    launch: Launch
    torch_widths: tuple[int, ...] = ()  # of LADDER: where a measurement found torch's own product faster


@cache
def launch_table() -> dict[int, dict[str, Entry]]:
    """Compute capability (10·major + minor) → path → entry."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return {int(row): {path: parse(entry) for path, entry in paths.items()} for row, paths in rows.items()}


def parse(entry: dict) -> Entry:
    """An entry as it stands in the file."""
    return Entry(Launch(**entry["launch"]), tuple(entry["torch_widths"]))


def nearest_entry(capability: int, path: str) -> Entry:
    """The entry of the nearest architecture at or below `capability`.

    Below all of them, as on the CPU, whose interpreter has no limits, the oldest entry serves.
    """
    table = launch_table()
    if capability in table:
        return table[capability][path]
    return table[max((known for known in table if known <= capability), default=min(table))][path]


def launch_for(capability: int, d: int, path: str) -> Launch:
    """The launch of `path` at width `d`, narrowed where `d` is less than a tile."""
    return narrowed(nearest_entry(capability, path).launch, d)


def torch_is_faster(capability: int, d: int, path: str) -> bool:
    """Whether a measurement found torch faster at the width of the ladder nearest to `d`, by their ratio."""
    return _nearest_width(d) in nearest_entry(capability, path).torch_widths


@cache
def _nearest_width(d: int) -> int:
    return min(LADDER, key=lambda width: abs(log2(width / d)))


@cache
def narrowed(launch: Launch, d: int) -> Launch:
    """The same launch with tiles no wider than `d` needs; 64 stays the least that a warp group multiplies."""
    needed = max(64, 1 << (d - 1).bit_length())
    if needed >= max(launch.block_m, launch.block_n):
        return launch
    smaller = replace(launch, block_m=min(launch.block_m, needed), block_n=min(launch.block_n, needed))
    return replace(smaller, warps=4) if needed == 64 else smaller
