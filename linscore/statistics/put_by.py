"""Where the moments of a block are while no rows come to them: in host memory, or in files mapped into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from linscore.statistics.cell import Cell, ordinary_tensors
from linscore.statistics.moments import Moments


class PutBy:
    """Takes moments off the device, 8·d·(d + e) bytes a cell.

    Args:
        folder: keep them in files there, which the system reads and writes as it has memory; None: in host memory. The
            files are gone once this is.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = None if folder is None else TemporaryDirectory(prefix="moments-", dir=folder)
        self._mapped: dict[Path, Tensor] = {}

    @ordinary_tensors()
    def put(self, name: str, moments: Moments) -> None:
        """Take the moments called `name` off their device."""
        moments.to("cpu")
        if self._folder is None:
            return
        for kind, cells in (("light", moments.light), ("heavy", moments.heavy)):
            for fold, cell in enumerate(cells):
                cells[fold] = cell and self._in_file(cell, Path(self._folder.name, f"{name}.{kind}.{fold}"))

    def _in_file(self, cell: Cell, path: Path) -> Cell:
        mapped = self._mapped.get(path)
        if mapped is None:
            size, shape = cell.second.numel(), cell.second.shape
            mapped = torch.from_file(str(path), shared=True, size=size, dtype=torch.float64).view(shape)
            self._mapped[path] = mapped
        if mapped.data_ptr() != cell.second.data_ptr():
            mapped.copy_(cell.second)
        return replace(cell, second=mapped)
