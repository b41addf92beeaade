"""What this machine has for linscore, which backend it would use, and how to get what is missing."""

from __future__ import annotations

from importlib.metadata import version

import torch
from linscore_kernels import choose_backend, has_triton

from linscore.embedded.shipped import SHIPPED
from linscore.machine.extras import EXTRAS, how_to_get, missing, package
from linscore.machine.versions import versions


def findings() -> list[tuple[str, str]]:
    """(what, how it is) lines."""
    lines = list(versions().items())
    if not has_triton():
        lines.append(("triton", _without_triton()))
    lines += [(f"extra {extra}", _extra(extra)) for extra in EXTRAS if extra != "triton"]
    lines.append(("GPU", _gpu()))
    lines.append(("CPU threads", str(torch.get_num_threads())))
    lines.append(("backend", choose_backend("cuda" if torch.cuda.is_available() else "cpu")))
    lines.append(("decoders", ", ".join(name for name, folder in SHIPPED.items() if folder.is_dir())))
    return lines


def _without_triton() -> str:
    if torch.cuda.is_available():
        return f"missing: the GPU is used without linscore's kernels, slower: {how_to_get('triton')}"
    return "not installed: only a GPU's kernels need it"


def _extra(extra: str) -> str:
    modules = EXTRAS[extra]
    if gone := missing(modules):
        return f"missing {', '.join(gone)}: {how_to_get(extra)}"
    return ", ".join(f"{package(module)} {version(package(module))}" for module in modules)


def _gpu() -> str:
    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "no CUDA device answers"
        return f"none ({why}): scoring runs on the CPU; for a GPU install torch from https://pytorch.org"
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 2**30
    return f"{properties.name}, {memory:.0f} GiB, sm_{properties.major}{properties.minor}"
