"""What a caller has, as rows: `[..., d]` of torch, NumPy or anything with `__dlpack__`, and a mask, become `[n, d]`.

Nothing is copied that torch can read where it lies: dtype and strides stay as they are given.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import check_rows
from .errors import LinscoreError

try:
    import numpy as np
except ImportError:  # as in pilot.py
    np = None  # type: ignore[assignment]

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Given(NamedTuple):
    """States as rows, and which of them count."""

    x: Tensor  # [n, d]
    y: Tensor | None  # [n, d]
    delta: Tensor | None  # [n, e]
    rows: Tensor | None  # [k] int64, those that count; None: all
    shape: torch.Size  # of what has one entry a row that counts: the leading shape of x, or [k]

    @property
    def n(self) -> int:
        """How many rows count."""
        return len(self.x if self.rows is None else self.rows)


def as_rows(
    x: Any, y: Any = None, delta: Any = None, *, mask: Any = None, rows: Any = None, device: torch.device | None = None
) -> Given:
    """States and what says which of them count, as the operations take them; no gradient goes through.

    Args:
        x: `[..., d]` float64, float32, float16 or bfloat16; a tensor, a NumPy array or anything with `__dlpack__`.
        y: the same shape; None where `delta` is given.
        delta: `[..., e]`, e ≤ d; None where `y` is given.
        mask: the leading shape, bool or numbers 0 and 1: True or 1 for what counts. A row that does not may hold
            anything.
        rows: in place of a mask, indices `[k]` of the flattened rows, or bool for each of them `[n]`.
        device: where everything goes; by default that of x.

    Raises:
        LinscoreError: for anything else, by the name of the argument.
    """
    if (y is None) == (delta is None):
        raise LinscoreError("give either `y` or `delta` beside `x`: the other one follows from it")
    given, x = x, _states("x", x, device)
    name = "y" if delta is None else "delta"
    other = x if y is not None and y is given else _states(name, y if delta is None else delta, x.device)
    narrow = delta is not None and other.ndim == x.ndim and other.shape[-1] < x.shape[-1]
    if other.shape[:-1] != x.shape[:-1] or not (narrow or other.shape[-1] == x.shape[-1]):
        raise LinscoreError(f"`x` is {list(x.shape)} and `{name}` {list(other.shape)}: give both [..., d] of one shape")
    leading = x.shape[:-1]
    picked = _picked(mask, rows, leading, x.device)
    flat = x.flatten(0, -2)
    other = flat if other is x else other.flatten(0, -2)  # a state paired with itself has no δ to multiply
    if picked is not None:
        check_rows(picked, flat)
    shape = leading if picked is None else picked.shape
    return Given(flat, other if delta is None else None, None if delta is None else other, picked, shape)


def as_tensor(what: str, value: Any) -> Tensor:
    """A tensor that shares the memory of `value`, wherever torch can read it.

    Raises:
        LinscoreError: for what is no dense array; `what` is how the message calls it.
    """
    if isinstance(value, Tensor):
        tensor = value
    elif np is not None and isinstance(value, np.ndarray):
        tensor = _of_numpy(what, value)
    elif hasattr(value, "__dlpack__"):
        tensor = _converted(what, torch.from_dlpack, value)
    else:
        raise LinscoreError(
            f"{what} is of type {type(value).__name__}: give a tensor, a NumPy array, or anything with __dlpack__"
        )
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        raise LinscoreError(f"{what} is no dense tensor with values: give one")
    return tensor


def _states(name: str, value: Any, device: torch.device | None) -> Tensor:
    states = as_tensor(f"`{name}`", value)
    if states.ndim < 2:
        raise LinscoreError(f"`{name}` is {list(states.shape)}: give [..., d], a row for each token")
    if states.dtype not in DTYPES:
        raise LinscoreError(f"`{name}` is {states.dtype}: convert it to {', '.join(map(str, DTYPES))}")
    states = states.detach() if states.requires_grad else states
    return states if device is None else states.to(device)


def _picked(mask: Any, rows: Any, leading: torch.Size, device: torch.device) -> Tensor | None:
    """Indices of the flattened rows that count, on `device`; None for all."""
    if mask is not None and rows is not None:
        raise LinscoreError("give either `mask` or `rows`: each says which rows count")
    if mask is not None:
        return _set_in("mask", as_tensor("`mask`", mask), leading, device)
    if rows is None:
        return None
    picked = as_tensor("`rows`", rows)
    if picked.dtype is torch.bool:
        return _set_in("rows", picked, torch.Size([leading.numel()]), device)
    if picked.is_floating_point() or picked.is_complex() or picked.ndim != 1:
        raise LinscoreError(f"`rows` is {list(picked.shape)} {picked.dtype}: give indices [k] as int64, or bool [n]")
    return picked.to(device, torch.int64)


def as_mask(name: str, mask: Tensor, shape: torch.Size) -> Tensor:
    """A mask of that shape as bool. Raises LinscoreError for another shape, and for all but bool, 0 and 1."""
    if mask.shape != shape:
        raise LinscoreError(f"`{name}` is {list(mask.shape)}, the states without their width {list(shape)}: give that")
    kept = mask != 0
    if mask.dtype is not torch.bool and not bool((kept.to(mask.dtype) == mask).all()):
        raise LinscoreError(f"`{name}` must hold 1 for rows that count and 0 for others, as bool or numbers")
    return kept


def _set_in(name: str, mask: Tensor, shape: torch.Size, device: torch.device) -> Tensor | None:
    """Where a mask of that shape is set; None where it is everywhere, so that nothing has to be gathered."""
    mask = as_mask(name, mask, shape)
    picked = mask.reshape(-1).nonzero()[:, 0]
    return None if len(picked) == mask.numel() else picked.to(device)


class _Writable:
    """The same memory, which is only read, under a flag that torch asks for."""

    def __init__(self, array: Any) -> None:
        self._array = array  # keeps the memory
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def _of_numpy(what: str, array: Any) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        raise LinscoreError(f"{what} is a masked array: give its data, and what is not masked as `mask`")
    if any(stride < 0 or stride % array.itemsize for stride in array.strides) or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")  # torch knows no such strides and bytes
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))
    return _converted(what, torch.from_numpy, array)


def _converted(what: str, convert: Any, value: Any) -> Tensor:
    try:
        tensor: Tensor = convert(value)
    except Exception as error:  # BufferError, TypeError, RuntimeError: whatever the other library raises
        reason = " ".join(str(error).split())[:200]
        raise LinscoreError(
            f"{what} cannot be read by torch ({reason}): give numbers in memory that it knows"
        ) from error
    return tensor
