"""The state of a model's parameters while it is trained, and back to what it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from linscore.errors import LinscoreError

__all__ = ["in_float32", "training_only"]


@contextmanager
def training_only(student: nn.Module, names: Collection[str] | None) -> Iterator[list[nn.Parameter]]:
    """Only the named parameters need gradients for a while; yields them, tied ones once."""
    named = dict(student.named_parameters(remove_duplicate=False))
    missing = sorted(set(names or ()) - named.keys())
    if missing:
        raise LinscoreError(f"the student has no parameter {missing[0]!r}: choose from student.named_parameters()")
    wanted = {id(named[name]) for name in (named if names is None else names)}
    if not wanted:
        raise LinscoreError("there is no parameter to train: name some, or leave `parameters` out to train all")
    flags = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(id(parameter) in wanted)
    try:
        yield [parameter for parameter, _ in flags if parameter.requires_grad]
    finally:
        for parameter, flag in flags:
            parameter.grad = None
            parameter.requires_grad_(flag)


@contextmanager
def in_float32(student: nn.Module) -> Iterator[None]:
    """16-bit parameters and buffers as float32 for a while, the same objects."""
    narrow = [
        (tensor, tensor.dtype)
        for tensor in (*student.parameters(), *student.buffers())
        if tensor.dtype in (torch.bfloat16, torch.float16)
    ]
    for tensor, _ in narrow:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in narrow:
            tensor.data = tensor.data.to(dtype)
