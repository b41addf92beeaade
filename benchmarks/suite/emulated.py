"""x.T @ [x δ] by cuBLAS, timed, and its error against float64 on the host; run by `bench_emulation.py`.

    python emulated.py DEVICE DTYPE TOKENS WIDTH

A process of its own, because cuBLAS asks for its variables once: CUBLAS_EMULATE_SINGLE_PRECISION,
CUBLAS_EMULATE_DOUBLE_PRECISION, CUBLAS_EMULATION_STRATEGY.
"""

from __future__ import annotations

import json
import sys

import torch

from linscore.machine.kernel_cases import random_states
from linscore.machine.timing import interleaved

CHECKED = 64  # columns whose products are held against the host's


def main(device: str, name: str, tokens: int, d: int) -> dict[str, float]:
    """Seconds of the product, and its largest error, relative to √(Σx̂ᵢ² Σδ̂ⱼ²)."""
    x, y = random_states(d, tokens, torch.float32, torch.device(device))
    x, both = x.to(getattr(torch, name)), torch.cat([x, y - x], 1).to(getattr(torch, name))
    timing = interleaved(lambda: x.T @ both, {}, rounds=5)
    columns = slice(d - CHECKED // 2, d + CHECKED // 2)  # of x and of δ
    left, right = x[:, :CHECKED].double().cpu(), both[:, columns].double().cpu()
    apart = (x.T @ both)[:CHECKED, columns].double().cpu() - left.T @ right
    return {
        "seconds": timing.median,
        "error": (apart.abs() / (left.norm(dim=0)[:, None] * right.norm(dim=0))).max().item(),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))))
