"""The device that a user names, and what is copied there."""

from __future__ import annotations

import torch
from torch import Tensor

from linscore.errors import LinscoreError

KINDS = ("cpu", "cuda")


def choose_device(device: str) -> torch.device:
    """The device called `device`, if it is there."""
    try:
        where = (
            torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
        )
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise LinscoreError(f"device {device!r} is not there: run `linscore doctor`, or give `device=cpu`") from error
    if where.type not in KINDS:
        raise LinscoreError(f"`device` is {device}: linscore computes on {' and '.join(KINDS)}, give one of them")
    return where


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; what lies in pinned memory is copied when the device comes to it, and not waited for."""
    return tensor.to(device, non_blocking=device.type != "cpu" and tensor.is_pinned())
