"""Counts what a GPU would be asked and waited for, on any machine: launches, and reads that wait until it is done.

On a CPU the tensors that stand for the device's are those named at the start and whatever is computed from them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from linscore_kernels.launching import interpreted
from linscore_kernels.second_moments import op
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero"}
COPIES = (Tensor.cpu, Tensor.tolist, Tensor.numpy)  # which on a CPU read memory, unseen by a dispatch mode
FREE = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "resize_", "_unsafe_view"}


class Device(TorchDispatchMode):
    """What is asked of the device that holds `tensors`."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.launches: list[str] = []
        self.waits: list[str] = []
        self.synchronized = 0  # what torch counts on a GPU
        self._mark(list(tensors))

    def holds(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and (tensor.is_cuda or hasattr(tensor, "of_the_device"))

    def _mark(self, found: Any) -> None:
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                tensor.of_the_device = True  # type: ignore[attr-defined]

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(self.holds(one) for one in tree_leaves((args, kwargs))):
            self._note(func, args)
            self._mark(found)
        return found

    def _note(self, func: Any, args: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
        if name in READS or any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices):
            self.waits.append(name)
        returns = func._schema.returns
        view = returns and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        if name not in FREE and not view:
            self.launches.append(name)


class Copies(TorchFunctionMode):
    """Reads of whole tensors."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        to_cpu = func is Tensor.to and any(
            isinstance(one, str) and one == "cpu" for one in (*args[1:], *(kwargs or {}).values())
        )
        if (func in COPIES or to_cpu) and self._device.holds(args[0]):
            self._device.waits.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: Any, tensors: Iterable[Tensor]) -> Iterator[Device]:
    """Counts while the context lasts; our kernels are one launch each, and our operators what they are made of."""
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.jit import JITFunction

    device = Device(tensors)
    home, name = (GridExecutor, "__call__") if interpreted() else (JITFunction, "run")
    plain = getattr(home, name)

    def launch(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        device.launches.append(kernel.fn.__name__)
        with _disable_current_modes():
            return plain(kernel, *args, **kwargs)

    with monkeypatch.context() as patch, synchronizing(device), Copies(device), device:
        patch.setattr(home, name, launch)
        patch.setattr(op, "_accumulate", _within(op._accumulate))
        yield device


@contextmanager
def synchronizing(device: Device) -> Iterator[None]:
    """On a GPU torch itself says who waits."""
    if not torch.cuda.is_available():
        yield
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        yield
        torch.cuda.set_sync_debug_mode(before)
    device.synchronized = sum("synchronizing CUDA operation" in str(one.message) for one in said)


def _within(operator: Any) -> Callable[..., Any]:
    """The function that an operator was made of, whose calls a mode sees."""
    return operator._init_fn
