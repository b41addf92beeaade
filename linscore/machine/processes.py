"""Processes that torchrun, or another launcher, has started to do one job together.

Each piece of work has a number, which says whose it is (decisions: One score by several processes). What they have to
tell each other goes by gloo on CPUs and by NCCL between GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from linscore.errors import LinscoreError

__all__ = ["ALONE", "Processes", "check_joined", "check_single", "join", "on_cpu"]

Anything = TypeVar("Anything")
PATIENCE = timedelta(days=7)  # some have more to do than others; that one has died is seen by its heartbeat
CHUNK = 1 << 27  # numbers that are summed at a time: a GiB of float64


@dataclass(frozen=True)
class Processes:
    """Those that do one job together: the number of this one, and how many there are."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that reports, writes, and holds the result's folder."""
        return self.number == 0

    @property
    def here(self) -> int:
        """How many of them are on this machine; all, where the launcher does not say."""
        return int(os.environ.get("LOCAL_WORLD_SIZE") or self.count) if self.count > 1 else 1

    def takes(self, piece: int) -> bool:
        """Whether the piece of work of this number is this process's."""
        return piece % self.count == self.number

    def part_of(self, batch_size: int) -> int:
        """How many of the examples of each batch are one process's.

        Raises:
            LinscoreError: where it cannot be shared evenly.
        """
        if batch_size % self.count:
            raise LinscoreError(f"`batch_size` is {batch_size}, for {self.count} processes: give a multiple of that")
        return batch_size // self.count

    def each(self, pieces: Sequence[Callable[[], Anything]]) -> list[Anything]:
        """What all pieces of work come to, each done by one process; every process gets everything."""
        own = [piece() for number, piece in enumerate(pieces) if self.takes(number)]
        if self.count == 1:
            return own
        found: list[list[Anything]] = [[]] * self.count
        dist.all_gather_object(found, own)
        return [found[number % self.count][number // self.count] for number in range(len(pieces))]

    def all(self, value: Anything) -> list[Anything]:
        """What each process calls this with, in their order."""
        return self.each([lambda: value] * self.count)

    def from_first(self, value: Anything) -> Anything:
        """What the first process calls this with."""
        if self.count == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def add_up(self, *tensors: Tensor) -> None:
        """Put into each tensor the sum over all processes, whose order depends on nothing but their number."""
        for tensor in tensors if self.count > 1 else ():
            for chunk in tensor.view(-1).split(CHUNK):
                dist.all_reduce(chunk)

    def sums(self, *numbers: int) -> list[int]:
        """Of each number, over all processes."""
        if self.count == 1:
            return list(numbers)
        held = torch.tensor(numbers)
        self.add_up(held)
        return held.tolist()


ALONE = Processes()


def join(device: str = "auto") -> Processes:
    """All processes of this job, which wait for each other when they first join; `ALONE` where there is one.

    Each gets the GPU of its number on its machine, unless `device` is cpu.

    Raises:
        LinscoreError: when nothing numbers the processes, or there is not a GPU for each.
    """
    count = _started()
    if count == 1:
        return ALONE
    _check_numbered()
    if not dist.is_initialized():
        _choose_gpu(device)
        backend = "gloo" if on_cpu(device) else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=PATIENCE)
    return Processes(dist.get_rank(), count)


def _choose_gpu(device: str) -> None:
    """Make this process's GPU the one that is meant where none is named."""
    if device not in ("auto", "cpu", "cuda"):
        raise LinscoreError(f"`device` is {device!r}, for each of several processes: give auto or cpu")
    if on_cpu(device):
        return
    here, gpus = int(os.environ.get("LOCAL_RANK") or 0), torch.cuda.device_count()
    if here >= gpus:
        raise LinscoreError(f"there is no GPU for process {here + 1} of this machine: start {gpus}, or give device=cpu")
    torch.cuda.set_device(here)


def on_cpu(device: str = "auto") -> bool:
    """Whether the work is done on the CPU; accelerate joins processes there (by gloo) only if it is told so."""
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


def _check_numbered() -> None:
    if "RANK" not in os.environ:
        raise LinscoreError(
            f"{_started()} processes were started (WORLD_SIZE), but nothing numbers them (RANK): start them by "
            "torchrun, or unset WORLD_SIZE"
        )


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)
