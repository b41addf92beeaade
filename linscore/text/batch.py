"""A batch of tokens: the one place where it is read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from linscore_kernels.given import as_tensor
from numpy.typing import NDArray
from torch import Tensor

from linscore.errors import LinscoreError

# Token ids [B, T], or a dict of these parts. Whatever else a batch may hold would be misread if it were passed over.
Batch = Tensor | NDArray[Any] | Mapping[str, Any]
PARTS = ("input_ids", "attention_mask", "position_ids", "folds", "labels")
UNPREDICTED = -100  # what transformers calls a label that does not count


class Tokens(NamedTuple):
    """What a batch holds, on the device that it came on."""

    input_ids: Tensor  # [B, T] int32 or int64
    mask: Tensor | None  # [B, T], nonzero for tokens and 0 for padding; None: nothing is padded
    folds: Tensor | None  # [B], where the batch says them
    labels: Tensor | None = None  # [B, T], −100 for tokens that are not to be predicted; None: all but each first one
    position_ids: Tensor | None = None  # [B, T], where they are not simply counted

    def rows(self, first: int, stop: int) -> Tokens:
        """The sequences from `first` up to `stop`."""
        return Tokens(*(None if part is None else part[first:stop] for part in self))  # type: ignore[arg-type]

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
    """The parts of a batch: tensors, NumPy arrays, or anything with `__dlpack__`.

    Raises:
        LinscoreError: for a batch that holds no token ids `[B, T]`, something that is not read here, or a mask,
            positions or labels of another shape or kind.
    """
    parts = _parts(batch)
    ids, mask, positions = (parts.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
    if ids is None or ids.ndim != 2 or not _counts(ids):
        raise LinscoreError("a batch must be a tensor of token ids [B, T], or a dict that holds one as input_ids")
    unknown = sorted(str(name) for name in parts if name not in PARTS)
    if unknown:
        raise LinscoreError(f"a batch has {', '.join(unknown)}, which is not read: give it {', '.join(PARTS)} only")
    if ids.numel() == 0:
        raise LinscoreError(f"a batch of shape {tuple(ids.shape)} holds no token: leave it out")
    _check_mask(ids, mask)
    if positions is not None and (
        positions.shape != ids.shape or not _counts(positions) or bool((positions < 0).any())
    ):
        raise LinscoreError(f"position_ids must be integers from 0 on of shape {tuple(ids.shape)}, as input_ids are")
    labels, folds = parts.get("labels"), parts.get("folds")
    if labels is not None and labels.shape != ids.shape:
        raise LinscoreError(f"labels are {tuple(labels.shape)}, input_ids {tuple(ids.shape)}: give one shape")
    for name, part in {"labels": labels, "folds": folds}.items():
        if part is not None and not _counts(part):
            raise LinscoreError(f"{name} of a batch are {part.dtype}: give integers")
    return Tokens(_long(ids), mask, folds, labels, None if positions is None else _long(positions))


def _check_mask(ids: Tensor, mask: Tensor | None) -> None:
    """Raises LinscoreError for all but 0 and 1 or bool `[B, T]`: scores that are added, or numbers of packed texts."""
    if mask is None:
        return
    if mask.shape != ids.shape:
        raise LinscoreError(f"attention_mask is {tuple(mask.shape)}, input_ids {tuple(ids.shape)}: give one shape")
    if mask.is_floating_point() or bool((mask.long() != mask.bool().long()).any()):
        raise LinscoreError(
            "attention_mask must hold 1 for tokens and 0 for padding, as integers or bool: one that is added to "
            "scores, or that numbers packed texts, is not read"
        )


def _counts(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def _long(values: Tensor) -> Tensor:
    """The dtypes that an embedding takes; others, such as the 16 bits of a token store, become int64."""
    return values if values.dtype in (torch.int32, torch.int64) else values.long()


class TokenDigest:
    """SHA-256 of the batches that pass by, or of token ids."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches."""
        for batch in batches:
            self.add_batch(batch)
            yield batch

    def add_batch(self, batch: Batch) -> None:
        """Add everything that a batch holds."""
        parts = _parts(batch)
        for name in sorted(parts):
            self._digest.update(parts[name].numpy(force=True).tobytes())

    def add(self, input_ids: Tensor) -> None:
        """Add token ids by themselves, whatever batches they come in."""
        self._digest.update(input_ids.long().numpy(force=True).tobytes())

    def __str__(self) -> str:
        return self._digest.hexdigest()


def _parts(batch: Batch) -> dict[str, Tensor]:
    """What a batch says, by name, without what it leaves open."""
    named = batch if isinstance(batch, Mapping) else {"input_ids": batch}
    return {name: as_tensor(f"`{name}` of a batch", value) for name, value in named.items() if value is not None}
