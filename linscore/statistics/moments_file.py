"""moments.safetensors: all moments of a run in one file, with the facts needed to use or extend them.

Keys are `NAME.light.FOLD.FIELD` and `NAME.heavy.FOLD.FIELD` for the cells and `NAME.pilot.FIELD` for the pilot, NAME
being what `Collector.moments` calls it; everything is float64 but the pilot's float32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from linscore_kernels import Pilot
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.statistics.cell import Cell
from linscore.statistics.moments import Moments

FORMAT = 2


def save_moments(path: str | Path, moments: Mapping[str, Moments], **facts: Any) -> None:
    """Write `moments` and JSON-able `facts` (model, tokens, …); an older file is replaced only by a whole new one."""
    tensors: dict[str, Tensor] = {}
    heads = {}
    for name, one in moments.items():
        tensors |= {f"{name}.{key}": value.cpu().contiguous() for key, value in _tensors(one).items()}
        limits = [one.pilot.limit_x, one.pilot.limit_delta] if one.pilot else None
        heads[name] = {key: getattr(one, key) for key in ("d", "width_delta", "folds", "precision")}
        heads[name]["limits"] = limits
    metadata = {"linscore": json.dumps({"format": FORMAT, "facts": facts, "moments": heads})}
    new = Path(f"{path}.new")
    save_file(tensors, new, metadata)
    os.replace(new, path)


def load_moments(path: str | Path, names: Collection[str] | None = None) -> tuple[dict[str, Moments], dict[str, Any]]:
    """Read a file of `save_moments`: the moments by name, or some of them, on the CPU, and the facts.

    Raises:
        LinscoreError: when it is missing, damaged, or not such a file.
    """
    with _opened(path) as (file, head):
        wanted = {name: facts for name, facts in head["moments"].items() if names is None or name in names}
        keys = [key for key in file.keys() if key.startswith(tuple(f"{name}." for name in wanted))]  # noqa: SIM118
        tensors = {key: file.get_tensor(key) for key in keys}
        return {name: _moments(name, facts, tensors) for name, facts in wanted.items()}, head["facts"]


def stored_names(path: str | Path) -> set[str]:
    """The names of the moments in a file, from its head alone.

    Raises:
        LinscoreError: as `load_moments`.
    """
    with _opened(path) as (_, head):
        return set(head["moments"])


def check_moments(path: str | Path) -> dict[str, Any]:
    """The facts of a moments file from its head alone, which also tells a file that was cut short.

    Raises:
        LinscoreError: as `load_moments`.
    """
    with _opened(path) as (_, head):
        return head["facts"]


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    again = "score the model again"
    if not Path(path).is_file():
        raise LinscoreError(f"{path} is not there: {again}")
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads(file.metadata()["linscore"])
            if head["format"] != FORMAT:
                raise LinscoreError(f"{path} has format {head['format']}, this linscore reads {FORMAT}: {again}")
            yield file, head
    except LinscoreError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LinscoreError(f"{path} is damaged or no moments file ({reason}): {again}") from error


def _tensors(moments: Moments) -> dict[str, Tensor]:
    found = {
        f"{kind}.{fold}.{field.name}": getattr(cell, field.name)
        for kind, cells in (("light", moments.light), ("heavy", moments.heavy))
        for fold, cell in enumerate(cells)
        if cell is not None
        for field in fields(Cell)
    }
    if moments.pilot is not None:
        found |= {f"pilot.{name}": value for name, value in vars(moments.pilot).items() if isinstance(value, Tensor)}
    return found


def _moments(name: str, head: dict[str, Any], tensors: dict[str, Tensor]) -> Moments:
    widths = head["d"], head["width_delta"]
    moments = Moments(*widths, folds=head["folds"], precision=head["precision"])
    for kind, cells in (("light", moments.light), ("heavy", moments.heavy)):
        for fold in range(moments.folds):
            if f"{name}.{kind}.{fold}.n" in tensors:
                cell = Cell(*(tensors[f"{name}.{kind}.{fold}.{field.name}"] for field in fields(Cell)))
                empty = Cell.zeros(*widths)
                for field in fields(Cell):
                    value = getattr(cell, field.name)
                    if value.shape != getattr(empty, field.name).shape or not torch.isfinite(value).all():
                        raise ValueError(f"{name}.{kind}.{fold}.{field.name} is not what it should be")
                cells[fold] = cell
    if head["limits"] is not None:
        parts = {key: tensors[f"{name}.pilot.{key}"] for key in ("center_x", "center_delta", "scale_x", "scale_delta")}
        moments.pilot = Pilot(**parts, limit_x=head["limits"][0], limit_delta=head["limits"][1])
    return moments
