"""Whether what was saved of a model is what will be read, found out without reading its weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from linscore.errors import LinscoreError
from linscore.models.load import load
from linscore.models.loaders import loader_of
from linscore.models.pretrained import Checkpoint
from linscore.models.quiet import quiet

__all__ = ["check_saved"]

_ONE_THREAD = "HF_DEACTIVATE_ASYNC_LOAD"  # to transformers: tensors without memory are not for several threads


def check_saved(folder: Path, model: PreTrainedModel) -> None:
    """Make sure that the weights and the configuration in `folder` load as `model`, every tensor by name and shape.

    Everything that loading does is done, on tensors of the shapes that the headers of the files say, which have no
    memory. Only where that cannot be done are the weights read (decisions: What is saved is read back).

    Raises:
        LinscoreError: if they do not, or a file is not whole.
    """
    try:
        with quiet():
            again, info = _loaded(folder, model)
    except Exception:  # of a class or an operation that knows no such tensors: what counts is whether it loads
        try:
            again, info = load(folder, device="cpu", trust_remote_code=model.is_remote_code()), {}
        except LinscoreError as error:
            raise _not_saved(str(error)) from error
    wrong = [f"{name} is {what}" for what in ("missing", "unexpected") for name in sorted(info.get(f"{what}_keys", ()))]
    wrong += [f"{name} has another shape" for name, *_ in info.get("mismatched_keys", ())]
    wrong += _differences(again, model)
    if wrong:
        raise _not_saved(wrong[0])


def _loaded(folder: Path, model: PreTrainedModel) -> tuple[Any, dict[str, Any]]:
    """The model in a folder, without memory for its tensors, and what transformers says about them."""
    shapes = dict(_shapes(folder))
    kind, config = _reader(folder, model)
    with FakeTensorMode(allow_non_fake_inputs=True), _one_thread():
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
        return kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )


def _reader(folder: Path, model: PreTrainedModel) -> tuple[Any, Any]:
    """The class that reads a folder, and its configuration; code of the checkpoint's own is here already."""
    if model.is_remote_code():
        return type(model), type(model.config).from_pretrained(folder, trust_remote_code=False)
    checkpoint = Checkpoint(str(folder))
    config = checkpoint.config()
    return type(checkpoint.empty(loader_of(config), config)), config


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _differences(again: PreTrainedModel, model: PreTrainedModel) -> Iterator[str]:
    """What is another in the model that was loaded than in the one that was saved."""
    if type(again).__name__ != type(model).__name__:
        yield f"it would load as {type(again).__name__}, not {type(model).__name__}"
    found, saved = again.state_dict(), model.state_dict()
    for name in sorted(found.keys() | saved.keys()):
        shapes = [list(state[name].shape) if name in state else "nothing" for state in (found, saved)]
        if shapes[0] != shapes[1]:
            yield f"{name} would be {shapes[0]}, not {shapes[1]}"


@contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get(_ONE_THREAD)
    os.environ[_ONE_THREAD] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ONE_THREAD]
        else:
            os.environ[_ONE_THREAD] = before


def _not_saved(why: str) -> LinscoreError:
    return LinscoreError(f"what was saved would not load as the model that it is, so it was removed ({why})")
