"""What stands before the tensors of a moments file, held against the tensors that are there: names, shapes, dtypes.

A head is a few lines that anyone can write, so nothing is made of the sizes that it says before the file's own tensors,
whose shapes safetensors checks against the file's size, have them too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from linscore_kernels import SCALARS

from linscore.statistics.cell import Cell

__all__ = ["FORMAT", "PILOT", "Head", "Shape", "Stored"]

FORMAT = 2
PILOT = ("center_x", "center_delta", "scale_x", "scale_delta")
_NUMBER = re.compile(r"0|[1-9][0-9]*")
MOST_FOLDS = 1_000_000  # of all moments of a file together; the lists alone take 16 bytes each


class Stored(NamedTuple):
    """A tensor of a file, from the file's header."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """What the head says about one set of moments."""

    d: int
    width_delta: int
    folds: int
    precision: Literal["fast", "exact"]
    limits: tuple[object, object] | None  # of the pilot, for x and δ: numbers, which may be infinite

    def __post_init__(self) -> None:
        if not 1 <= self.width_delta <= self.d or self.folds < 1:
            raise ValueError(f"widths {self.d} and {self.width_delta} in {self.folds} folds cannot be")
        if not all(isinstance(one, int | float) and type(one) is not bool and one >= 0 for one in self.limits or ()):
            raise ValueError(f"limits are {self.limits}, not two numbers")

    def tensor(self, part: str, field: str) -> Stored:
        """What a tensor must be: `field` of the part "light", "heavy" or "pilot"; KeyError for another."""
        d, e = self.d, self.width_delta
        if part == "pilot":
            return Stored("F32", {"x": (d,), "delta": (e,)}[field.removeprefix("center_").removeprefix("scale_")])
        shapes = {"n": (), "sum_x": (d,), "sum_delta": (e,), "second": (d, d + e), "scalars": (len(SCALARS),)}
        return Stored("F64", shapes[field])


@dataclass(frozen=True)
class Head:
    """What stands before the tensors."""

    format: int
    facts: dict[str, Any]
    moments: dict[str, Shape]
    digests: dict[str, str] = field(default_factory=dict)  # of the tensors of each, by name

    def check(self, stored: Mapping[str, Stored]) -> None:
        """Whether exactly the tensors are there that the head describes, cells as a whole or not at all.

        Raises:
            ValueError: for the first that is not, or is too much or too little.
        """
        folds = sum(shape.folds for shape in self.moments.values())
        if folds > MOST_FOLDS:
            raise ValueError(f"it says {folds:,} folds")
        counts: Counter[tuple[str, str]] = Counter()
        for key, found in stored.items():
            name, part, of = self.place(key)
            wanted = self.moments[name].tensor(part.partition(".")[0], of)
            if found != wanted:
                raise ValueError(f"{key} is {found.dtype} {list(found.shape)}, not {wanted.dtype} {list(wanted.shape)}")
            counts[name, part] += 1
        for (name, part), count in counts.items():
            if count != (len(PILOT) if part == "pilot" else len(fields(Cell))):
                raise ValueError(f"{name}.{part} is not whole")
            if self.moments[name].limits is None:
                raise ValueError(f"{name} has {part}, but no limits")
        for name, shape in self.moments.items():
            if shape.limits is not None and (name, "pilot") not in counts:
                raise ValueError(f"{name} has no pilot")

    def place(self, key: str) -> tuple[str, str, str]:
        """Whose tensor a key names, in which part of the moments, "pilot" or a cell such as "light.0", and its field.

        Raises:
            ValueError: for a key of moments that the head does not have.
        """
        owner, _, field = key.rpartition(".")
        name, _, part = owner.rpartition(".")
        if part != "pilot":
            name, _, kind = name.rpartition(".")
            folds = self.moments[name].folds if name in self.moments else 0
            if kind not in ("light", "heavy") or not _NUMBER.fullmatch(part) or int(part) >= folds:
                raise ValueError(f"{key} belongs to nothing")
            part = f"{kind}.{part}"
        if name not in self.moments:
            raise ValueError(f"{key} belongs to nothing")
        return name, part, field
