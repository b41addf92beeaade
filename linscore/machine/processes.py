"""Processes that torchrun has started to do one job together."""

from __future__ import annotations

import os

import torch

from linscore.errors import LinscoreError

__all__ = ["check_joined", "check_single", "on_cpu"]


def on_cpu(device: str = "auto") -> bool:
    """Whether training is on the CPU; accelerate joins processes there (by gloo) only if it is told so."""
    return device == "cpu" or not torch.accelerator.is_available()


def check_joined(joined: int) -> None:
    """Make sure that all processes that were started train together; `joined` do.

    Raises:
        LinscoreError: if each would do the whole job.
    """
    if _started() > joined:
        raise LinscoreError(
            f"{_started()} processes were started (WORLD_SIZE), but {joined} would train by itself: start them by "
            "torchrun, or unset WORLD_SIZE"
        )


def check_single(job: str, instead: str) -> None:
    """Make sure that a job is not done by several processes, which would all write its result.

    Raises:
        LinscoreError: with what to do `instead`.
    """
    if _started() > 1:
        raise LinscoreError(f"linscore {job} runs in one process: {instead}")


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)
