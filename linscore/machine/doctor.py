"""What this machine has for linscore, which backend it would use, and how to get what is missing."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

import torch
from linscore_kernels import choose_backend, has_triton

from linscore.embedded.shipped import SHIPPED
from linscore.machine.versions import versions


def findings() -> list[tuple[str, str]]:
    """(what, how it is) lines."""
    lines = list(versions().items())
    if not has_triton():
        lines.append(("triton", "missing: GPU kernels need it (Linux): pip install 'triton>=3.6'"))
    for name in ("datasets", "safetensors", "tokenizers"):
        found = importlib.util.find_spec(name) is not None
        lines.append((name, version(name) if found else f"missing: pip install {name}"))
    lines.append(("GPU", _gpu()))
    lines.append(("CPU threads", str(torch.get_num_threads())))
    lines.append(("backend", choose_backend("cuda" if torch.cuda.is_available() else "cpu")))
    missing = [name for name, folder in SHIPPED.items() if not folder.is_dir()]
    lines.append(("decoders", f"missing: {', '.join(missing)}: install linscore again" if missing else "there"))
    return lines


def _gpu() -> str:
    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "no CUDA device answers"
        return f"none ({why}): scoring runs on the CPU; for a GPU install torch from https://pytorch.org"
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 2**30
    return f"{properties.name}, {memory:.0f} GiB, sm_{properties.major}{properties.minor}"
