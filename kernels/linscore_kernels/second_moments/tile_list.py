"""How the Gram products are cut: tiles of their triangle, and how many programs share the tokens of each."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..launching import pieces

# What a partial tile costs to write and merge, in tokens of its own product: 16 B per entry at 3.3 TB/s against
# 2 FLOP per entry and token at 600 TFLOP/s (H100), rounded up.
TOKENS_PER_MERGE = 1024
LONGEST = 16384  # tokens of one float32 accumulator (decisions: How long one tensor-core sum may be)


@lru_cache(maxsize=64)
def tile_list(
    d: int, block_m: int, block_n: int, device: torch.device, width_delta: int | None = None, group: int = 8
) -> Tensor:
    """Tiles `[tiles, 2]` (row, column) of [x̂x̂ᵀ | x̂δ̂ᵀ] that reach the diagonal or lie right of it, in L2 order.

    Of `group` rows of tiles those of one column come together, so that their operands meet in L2.
    """
    rows, of_x, of_delta = (
        pieces(d, block_m),
        pieces(d, block_n),
        pieces(d if width_delta is None else width_delta, block_n),
    )
    tiles = [
        (i, j)
        for first in range(0, rows, group)
        for j in range(of_x + of_delta)
        for i in range(first, min(first + group, rows))
        if j >= of_x or (j + 1) * block_n > i * block_m
    ]
    return torch.tensor(tiles, dtype=torch.int32).to(device)


@lru_cache(maxsize=1024)
def splits_for(tokens: int, tiles: int, programs: int) -> int:
    """How many programs share the tokens of a tile: the least of waves · tokens each + merging, in token times."""
    least = pieces(tokens, LONGEST)
    most = max(least, tokens // TOKENS_PER_MERGE)

    def cost(splits: int) -> float:
        waves = pieces(tiles * splits, programs)
        return waves * tokens / splits + TOKENS_PER_MERGE * splits * tiles / programs

    return min(range(least, min(most, least + 64) + 1), key=cost)
