"""Moments as named tensors and a few plain facts, for a file or a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from linscore_kernels import Pilot
from torch import Tensor

from linscore.errors import LinscoreError, reason
from linscore.statistics.cell import Cell
from linscore.statistics.moments_head import FORMAT, PILOT, Head, Shape, Stored

if TYPE_CHECKING:
    from linscore.statistics.moments import Moments

DTYPES = {torch.float64: "F64", torch.float32: "F32"}
FACTS = ("d", "width_delta", "folds", "precision")


def facts_of(moments: Moments) -> dict[str, Any]:
    """What `Shape` says of these moments."""
    limits = [moments.pilot.limit_x, moments.pilot.limit_delta] if moments.pilot else None
    return {name: getattr(moments, name) for name in FACTS} | {"limits": limits}


def tensors_of(moments: Moments) -> dict[str, Tensor]:
    """Their own tensors: "light.0.second" and the other sums of each cell, "pilot.center_x" and the like."""
    found = {
        f"{kind}.{fold}.{field.name}": getattr(cell, field.name)
        for kind, cells in (("light", moments.light), ("heavy", moments.heavy))
        for fold, cell in enumerate(cells)
        if cell is not None
        for field in fields(Cell)
    }
    if moments.pilot is not None:
        found |= {f"pilot.{name}": getattr(moments.pilot, name) for name in PILOT}
    return found


def fill(moments: Moments, tensors: Mapping[str, Tensor], limits: tuple[object, object] | None) -> None:
    """Put tensors that `Head.check` has seen in the place of what the moments hold.

    Raises:
        ValueError: where they cannot be sums over rows and a pilot; nothing is changed then.
    """
    cells: dict[str, list[Cell | None]] = {kind: [None] * moments.folds for kind in ("light", "heavy")}
    for kind, fold in {tuple(key.split(".")[:2]) for key in tensors if key.endswith(".n")}:
        cell = Cell(*(tensors[f"{kind}.{fold}.{field.name}"] for field in fields(Cell)))
        _check_cell(cell, f"{kind}.{fold}")
        cells[kind][int(fold)] = cell
    moments.pilot = None if limits is None else _pilot({name: tensors[f"pilot.{name}"] for name in PILOT}, limits)
    moments.light, moments.heavy = cells["light"], cells["heavy"]


def load(moments: Moments, state: Mapping[str, Any]) -> None:
    """Put copies of what a `state_dict` holds in the place of what the moments hold.

    Raises:
        LinscoreError: where it is of moments of another form, or damaged; nothing is changed then.
    """
    try:
        facts = {name: state[name] for name in (*FACTS, "limits")}
        tensors = {key: value for key, value in state.items() if key not in facts}
        limits = None if facts["limits"] is None else tuple(facts["limits"])
        shape = Shape(**facts | {"limits": limits})
        mine = {key: value for key, value in facts_of(moments).items() if key in FACTS}
        other = {key: facts[key] for key, value in mine.items() if facts[key] != value}
        if other:
            raise ValueError(", ".join(f"{key} is {value} there, {mine[key]} here" for key, value in other.items()))
        stored = {f"moments.{key}": _stored(value) for key, value in tensors.items()}
        Head(FORMAT, {}, {"moments": shape}).check(stored)
        copies = {key: value.to(moments.device, copy=True) for key, value in tensors.items()}
        fill(moments, copies, shape.limits)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LinscoreError(
            f"`state` is not that of such moments ({reason(error)}): give what `state_dict` of such ones gave"
        ) from error


def _stored(value: Tensor) -> Stored:
    return Stored(DTYPES.get(value.dtype, str(value.dtype)), tuple(value.shape))


def _pilot(parts: Mapping[str, Tensor], limits: tuple[object, object]) -> Pilot:
    for field, value in parts.items():
        if not torch.isfinite(value).all() or (field.startswith("scale") and not (value > 0).all()):
            raise ValueError(f"pilot.{field} is not what it should be")
    limit_x, limit_delta = (float(one) for one in limits if isinstance(one, int | float))
    return Pilot(**parts, limit_x=limit_x, limit_delta=limit_delta)


def _check_cell(cell: Cell, name: str) -> None:
    """Whether these can be sums over rows."""
    for field in fields(Cell):
        if not torch.isfinite(getattr(cell, field.name)).all():
            raise ValueError(f"{name}.{field.name} is not finite")
    if cell.n < 0 or cell.n != cell.n.round():
        raise ValueError(f"{name}.n is {cell.n.item()}, no number of rows")
