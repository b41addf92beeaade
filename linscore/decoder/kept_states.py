"""The states that enter a block on every batch, kept off the device while another batch or block has its turn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor


class KeptStates:
    """States `[B, T, d]` by the number of their batch, each in the place of the one before.

    Args:
        device: where blocks run: memory from which it copies without waiting is taken for it.
        folder: keep them in files there, mapped into memory, in place of memory; gone once these states are.
    """

    def __init__(self, device: torch.device, folder: Path | None = None) -> None:
        self._device = device
        self._folder = None if folder is None else TemporaryDirectory(prefix="states-", dir=folder)
        self._kept: dict[int, Tensor] = {}

    def __getitem__(self, batch: int) -> Tensor:
        """The state of a batch, on the device; on a CPU it is valid until the next is put in its place."""
        return self._kept[batch].to(self._device, non_blocking=True)

    def rows(self, batch: int, first: int, stop: int) -> Tensor:
        """The same of some of its sequences."""
        return self._kept[batch][first:stop].to(self._device, non_blocking=True)

    def __setitem__(self, batch: int, state: Tensor) -> None:
        self.put_rows(batch, state, 0, len(state))

    def put_rows(self, batch: int, state: Tensor, first: int, rows: int) -> None:
        """Put the state of some rows of a batch in their place.

        Args:
            batch: its number.
            state: `[b, T, d]`.
            first: the first of these rows.
            rows: of the whole batch.
        """
        kept, shape = self._kept.get(batch), (rows, *state.shape[1:])
        if kept is None or (kept.shape, kept.dtype) != (shape, state.dtype):
            kept = self._kept[batch] = self._room(batch, shape, state.dtype)
        kept[first : first + len(state)].copy_(state, non_blocking=True)  # in order with all that this device does next

    def __contains__(self, batch: int) -> bool:
        return batch in self._kept

    def items(self) -> Iterator[tuple[int, Tensor]]:
        """Batches and their states, where they are kept; what the device still copies is waited for."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return iter(self._kept.items())

    def _room(self, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._folder is None:
            return torch.empty(shape, dtype=dtype, pin_memory=self._device.type == "cuda")
        path = Path(self._folder.name, str(batch))
        return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
