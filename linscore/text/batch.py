"""A batch of tokens: the one place where it is read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from linscore.errors import LinscoreError

Batch = (
    Tensor | Mapping[str, Tensor]
)  # token ids [B, T], or a dict with `input_ids`, `attention_mask`, `folds`, `labels`
UNPREDICTED = -100  # what transformers calls a label that does not count


class Tokens(NamedTuple):
    """What a batch holds, on the device that it came on."""

    input_ids: Tensor  # [B, T] integers
    mask: Tensor | None  # [B, T], nonzero for tokens and 0 for padding; None: nothing is padded
    folds: Tensor | None  # [B], where the batch says them
    labels: Tensor | None = None  # [B, T], −100 for tokens that are not to be predicted; None: all but each first one

    @property
    def predicted(self) -> Tensor:
        """Which tokens `[B, T]` a language model is to predict, bool; never the first one of a row, and no padding."""
        wanted = self.real if self.labels is None else self.real & (self.labels != UNPREDICTED)
        return wanted & (torch.arange(wanted.shape[1], device=wanted.device) > 0)

    @property
    def real(self) -> Tensor:
        """Which positions `[B, T]` are no padding, bool."""
        return torch.ones_like(self.input_ids, dtype=torch.bool) if self.mask is None else self.mask != 0


def read_batch(batch: Batch) -> Tokens:
    """The parts of a batch.

    Raises:
        LinscoreError: for a batch that holds no token ids `[B, T]`, or a mask or labels of another shape.
    """
    parts = _parts(batch)
    ids, mask = parts.get("input_ids"), parts.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        raise LinscoreError("a batch must be a tensor of token ids [B, T], or a dict that holds one as input_ids")
    if mask is not None and mask.shape != ids.shape:
        raise LinscoreError(f"attention_mask is {tuple(mask.shape)}, input_ids {tuple(ids.shape)}: give one shape")
    labels = parts.get("labels")
    if labels is not None and labels.shape != ids.shape:
        raise LinscoreError(f"labels are {tuple(labels.shape)}, input_ids {tuple(ids.shape)}: give one shape")
    return Tokens(ids, mask, parts.get("folds"), labels)


class TokenDigest:
    """SHA-256 of the batches that pass by, or of token ids."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches."""
        for batch in batches:
            parts = _parts(batch)
            for name in sorted(parts):
                self._digest.update(parts[name].numpy(force=True).tobytes())
            yield batch

    def add(self, input_ids: Tensor) -> None:
        """Add token ids by themselves, whatever batches they come in."""
        self._digest.update(input_ids.long().numpy(force=True).tobytes())

    def __str__(self) -> str:
        return self._digest.hexdigest()


def _parts(batch: Batch) -> Mapping[str, Tensor]:
    return {"input_ids": batch} if isinstance(batch, Tensor) else batch
