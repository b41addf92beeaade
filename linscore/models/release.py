"""Letting go of a model before the next one is loaded."""

from __future__ import annotations

import gc

import torch


def release() -> None:
    """Free the memory of models that nothing names any more: they hold themselves in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
