"""Whether the blocks of a decoder can run one at a time, and have the states then that they have in a whole run."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

import linscore
from benchmarks.studies.sweep_models import rows_of_text
from linscore.decoder.block_by_block import BlockByBlock
from linscore.decoder.run import states_on


class PutAside:
    """The weights of blocks, NaN while the blocks do not run; those that several blocks share stay.

    Attributes:
        most: how many blocks have had theirs at once.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        owners = Counter(id(parameter) for block in blocks for parameter in block.parameters())
        self._own = [[(p, p.data) for p in block.parameters() if owners[id(p)] == 1] for block in blocks]
        self._here: set[int] = set()
        self.most = 0
        self._put_all(there=False)

    @contextmanager
    def loaded(self, index: int, ahead: int | None = None) -> Any:  # noqa: ARG002
        self._put(index, there=True)
        self._here.add(index)
        self.most = max(self.most, len(self._here))
        try:
            yield
        finally:
            self._here.remove(index)
            self._put(index, there=False)

    @contextmanager
    def put_back(self) -> Any:
        """Every block has its weights again once the context is left."""
        try:
            yield self
        finally:
            self._put_all(there=True)

    def _put_all(self, *, there: bool) -> None:
        for index in range(len(self._own)):
            self._put(index, there=there)

    def _put(self, index: int, *, there: bool) -> None:
        for parameter, kept in self._own[index]:
            parameter.data = kept if there else torch.full_like(kept, torch.nan)


def check_stream(model: PreTrainedModel, _path: str) -> str:
    """States of blocks that ran one at a time, bit for bit."""
    decoder = linscore.find_decoder(model)
    ids = torch.cat([row[:, :9] for row in rows_of_text()])
    expected, state = states_on(decoder, ids), None
    with PutAside(decoder.blocks).put_back() as weights:
        one = BlockByBlock(decoder, weights)
        for index in range(len(decoder.blocks)):
            found: dict[int, Any] = {}
            with one.at(index):
                state = one.run_block(index, state, (ids, None, None), found.__setitem__)
            for name in ("x", "y"):
                before, after = getattr(expected[index], name), getattr(found[index], name)
                if not torch.equal(before, after):
                    return f"WRONG: {name} of block {index} off by {float((before - after).abs().max()):.1e}"
    return "right"
