"""Which backend computes an operation: Triton on CUDA tensors, plain torch ("eager") elsewhere, unless told."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import torch

from .errors import LinscoreError

BACKENDS = ("triton", "eager")
"""The names that `backend` may have, beside "auto".

Examples:
    >>> linscore_kernels.choose_backend("cpu") in linscore_kernels.BACKENDS
    True
"""
VARIABLE = "LINSCORE_BACKEND"


def choose_backend(device: torch.device | str, wanted: str | None = None) -> str:
    """The backend's name for tensors on `device`: `wanted`, else $LINSCORE_BACKEND, else what fits the device.

    Raises LinscoreError for an unknown name, and where Triton is asked for and cannot run.

    Examples:
        >>> linscore_kernels.choose_backend("cpu", "eager")
        'eager'
    """
    name = wanted or os.environ.get(VARIABLE) or "auto"
    on_gpu = torch.device(device).type == "cuda"
    if name == "auto":
        return "triton" if on_gpu and has_triton() else "eager"
    if name not in BACKENDS:
        raise LinscoreError(f"unknown backend {name!r}: choose auto, {' or '.join(BACKENDS)}")
    if name == "triton" and not has_triton():
        raise LinscoreError("the triton backend needs the triton package: pip install triton, or choose eager")
    if name == "triton" and not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise LinscoreError(f"the triton backend runs on CUDA tensors, these are on {device}: choose eager")
    return name


def has_triton() -> bool:
    """Whether the triton package is installed.

    Examples:
        >>> linscore_kernels.has_triton() in (True, False)
        True
    """
    return importlib.util.find_spec("triton") is not None


def load_backend(operation: str, device: torch.device, wanted: str) -> ModuleType:
    """The module that computes an operation, the folder of that name, for tensors on `device`; "" is no wish."""
    return importlib.import_module(f".{operation}.{choose_backend(device, wanted or None)}", __package__)
