"""The weights of blocks put aside while the blocks do not run: a block that runs all the same gives NaN."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class PutAside:
    """Has the weights of some blocks; `most` is how many blocks have had theirs at once."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks = blocks
        self._kept = [{name: tensor.data for name, tensor in block.named_parameters()} for block in blocks]
        self._here: set[int] = set()
        self.most = 0
        for index in range(len(blocks)):
            self._put(index, there=False)

    @contextmanager
    def loaded(self, index: int, ahead: int | None = None) -> Iterator[None]:  # noqa: ARG002
        self._put(index, there=True)
        self._here.add(index)
        self.most = max(self.most, len(self._here))
        yield
        self._here.remove(index)
        self._put(index, there=False)

    @contextmanager
    def put_back(self) -> Iterator["PutAside"]:
        """Every block has its weights again once the context is left."""
        try:
            yield self
        finally:
            for index in range(len(self._blocks)):
                self._put(index, there=True)

    def _put(self, index: int, *, there: bool) -> None:
        for name, parameter in self._blocks[index].named_parameters():
            kept = self._kept[index][name]
            parameter.data = kept if there else torch.full_like(kept, torch.nan)
