"""Versions of what the figures depend on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for name in ("linscore", "torch", "transformers", "triton"):
        with suppress(PackageNotFoundError):  # triton is for GPUs only
            found[name] = version(name)
    return found
