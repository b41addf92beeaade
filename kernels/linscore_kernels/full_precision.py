"""Products as their operands are: neither autocast nor TF32 nor bfloat16, whatever the caller's own are computed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """A context in which float32 products on `device` are float32 ones; the caller's settings come back after it.

    Autocast would round operands to 16 bits, `torch.set_float32_matmul_precision` or
    `torch.backends.cuda.matmul.allow_tf32` lets a GPU take TF32 and a CPU bfloat16 (decisions: Full precision).
    """
    # Of the settings that torch knows by two names, asking for the older one fails once the newer was set.
    # In a graph that is being compiled they cannot be changed; the operators are opaque to it, and change them.
    backends: Any = torch.backends
    settings = () if torch.compiler.is_compiling() else (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [one.fp32_precision for one in settings]
    try:
        for one in settings:
            one.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for one, was in zip(settings, before, strict=True):
            one.fp32_precision = was
