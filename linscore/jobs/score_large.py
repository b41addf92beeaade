"""Scoring a model that is larger than its device: block by block, with what is kept meanwhile in memory or files."""

from __future__ import annotations

import shutil
from pathlib import Path

from linscore.errors import LinscoreError
from linscore.machine.free_memory import free_host_memory
from linscore.machine.processes import check_single
from linscore.models.load import Pretrained
from linscore.options import LargeOptions
from linscore.scoring.streamed import Streamed

SHARE = 0.5  # of what is free, for states
UNKNOWN = 4 << 30  # bytes, where nothing says how much is free


def check_large(large: LargeOptions) -> None:
    """Before a model is loaded.

    Raises:
        LinscoreError: for a `scratch` that is not there, or that nothing would be kept in, or several processes.
    """
    if large.placement != "whole":
        check_single("score of a model in pieces", "give `placement=whole`, or start it without torchrun")
    if large.scratch is None:
        return
    if large.placement != "stream":
        raise LinscoreError(f"`scratch` is of `placement=stream`, and it is {large.placement}: give one or the other")
    if not Path(large.scratch).is_dir():
        raise LinscoreError(f"`scratch={large.scratch}` is no folder: make one, on a disk with room")


def stream_of(loaded: Pretrained, large: LargeOptions) -> Streamed | None:
    """The way to run a model that came without its blocks; None for one that has them.

    Raises:
        LinscoreError: for a family whose blocks cannot run one at a time.
    """
    if loaded.weights is None:
        return None
    folder = None if large.scratch is None else Path(large.scratch)
    return Streamed(loaded.decoder, loaded.weights, room=room_of(large), folder=folder)


def room_of(large: LargeOptions) -> int:
    """Bytes of states that may be kept at once."""
    free = free_host_memory() if large.scratch is None else shutil.disk_usage(large.scratch).free
    return int(SHARE * (UNKNOWN if free is None else free))
