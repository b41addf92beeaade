"""Hidden states in files, as servers and makers of training data write them: read piece by piece, and without trust.

A file is one text: `hidden_states` `[n, S, d]`, S states of each of n tokens, and where they are known its `token_ids`
(or `input_ids`) `[n]` and an `attention_mask` `[n]`. That is what vLLM's connector for hidden states and speculators
write as safetensors; NumPy's .npz holds the same by the same names, .npy the states alone, and a .pt file, of which
nothing but tensors is read, may hold them as a list of S tensors `[n, d]` too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from linscore.errors import LinscoreError, reason

__all__ = ["StoredStates", "open_states", "state_files"]

STATES, IDS, MASK = "hidden_states", ("token_ids", "input_ids"), "attention_mask"


class StoredStates(NamedTuple):
    """The states of one text, in a file that is open."""

    shape: tuple[int, int, int]  # n tokens, S states of each, d features
    piece: Callable[[int, int], list[Tensor]]  # from a token to another: S tensors [tokens, d]
    ids: Tensor | None  # [n]
    mask: Tensor | None  # [n], 0 for padding


def state_files(place: Path) -> tuple[list[Path], list[Path]]:
    """The files of states in a folder and those in it, by their names as people count, and the others; or one file.

    Raises:
        LinscoreError: where there is none.
    """
    if not place.exists():
        raise LinscoreError(f"{place} is not there: give a folder of states, or a file")
    files = [path for path in (place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
    found = sorted((path for path in files if path.suffix in _PARTS), key=_counting)
    if not found:
        raise LinscoreError(f"{place} holds no states: give a folder with files of {', '.join(_PARTS)}")
    return found, sorted(set(files) - set(found))


def open_states(path: Path) -> StoredStates:
    """The states of a file, of which no more is in memory than is asked for, but of .npz.

    Raises:
        LinscoreError: where it is damaged, or holds no states of this form; also when a piece is read.
    """
    with _reading(path):
        parts = _PARTS[path.suffix](path)
        if STATES not in parts:
            raise LinscoreError(_without(path, parts))
        shape, read = _form(path, parts[STATES]())
        ids = next((parts[name]() for name in IDS if name in parts), None)
        mask = parts[MASK]() if MASK in parts else None
    for what, one in {"token ids": ids, MASK: mask}.items():
        if one is not None and list(one.shape) != [shape[0]]:
            raise LinscoreError(
                f"{path} has {what} {list(one.shape)} and states of {shape[0]} tokens: it is damaged, write it anew"
            )

    def piece(first: int, stop: int) -> list[Tensor]:
        with _reading(path):
            return read(first, stop)

    return StoredStates(shape, piece, *(None if one is None else torch.as_tensor(one[:]) for one in (ids, mask)))


Parts = Mapping[str, Callable[[], Any]]  # each array, or what can be cut into pieces, when it is asked for


def _safetensors(path: Path) -> Parts:
    file = safe_open(path, framework="pt")

    def part(name: str) -> Callable[[], Any]:
        return lambda: _Cut(file.get_slice(name))

    return {name: part(name) for name in file.keys()}  # noqa: SIM118


def _npy(path: Path) -> Parts:
    states = np.load(path, mmap_mode="r", allow_pickle=False)
    return {STATES: lambda: states}


def _npz(path: Path) -> Parts:
    file = np.load(path, allow_pickle=False)

    def part(name: str) -> Callable[[], Any]:
        return lambda: file[name]

    return {name: part(name) for name in file.files}


def _pt(path: Path) -> Parts:
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, Mapping):
        content = {STATES: content}

    def part(name: str) -> Callable[[], Any]:
        return lambda: content[name]

    return {name: part(name) for name in map(str, content)}


_PARTS: dict[str, Callable[[Path], Parts]] = {".safetensors": _safetensors, ".npy": _npy, ".npz": _npz, ".pt": _pt}


class _Cut:
    """An array of a safetensors file that is read where it is cut."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.shape = inner, tuple(inner.get_shape())

    def __getitem__(self, where: slice) -> Tensor:
        return self._inner[where]


def _form(path: Path, states: Any) -> tuple[tuple[int, int, int], Callable[[int, int], list[Tensor]]]:
    """The shape [n, S, d] of what a file has as `hidden_states`, and what reads tokens of it."""
    if (
        isinstance(states, Sequence)
        and {type(one) for one in states} == {Tensor}
        and len({one.shape for one in states}) == 1
    ):
        listed = list(states)
        shape = (*listed[0].shape[:1], len(listed), *listed[0].shape[1:])
    else:
        listed, shape = [], tuple(getattr(states, "shape", ()))
    if len(shape) != 3 or 0 in shape:
        raise LinscoreError(
            f"{path} has {STATES} of shape {list(shape)}: give one text a file, [tokens, states, features] of it"
        )

    def read(first: int, stop: int) -> list[Tensor]:
        if listed:
            return [one[first:stop] for one in listed]
        cut = states[first:stop]
        return list((cut if isinstance(cut, Tensor) else torch.from_numpy(np.array(cut))).unbind(1))

    return shape, read


def _without(path: Path, parts: Parts) -> str:
    held = ", ".join(sorted(parts)[:8]) or "nothing"
    if any(name.endswith("hidden_state") for name in parts):
        return (
            f"{path} holds {held}: one state of each token, or several as one, says nothing of a block; write those "
            f"before and after each block as {STATES} [tokens, states, features]"
        )
    return f"{path} holds {held}, and no {STATES} [tokens, states, features]: take it out of the folder"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong as a LinscoreError: of a damaged file anything may be raised."""
    try:
        yield
    except (LinscoreError, MemoryError):
        raise
    except Exception as error:
        raise LinscoreError(
            f"{path} is damaged or no file of states ({reason(error)}): write it anew, or take it out of the folder"
        ) from error


def _counting(path: Path) -> list[tuple[int, int | str]]:
    """A key by which hs_2 comes before hs_10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
