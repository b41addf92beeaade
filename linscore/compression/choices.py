"""Forms that stand for units, and what a choice of them becomes where another unit gets one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from linscore.errors import LinscoreError
from linscore.spans import PARTS, Unit

Kind = Literal["drop", "mean", "diagonal", "rank", "affine"]
PARTS_OF_WIDTH = (16, 8, 4)  # ranks tried: from half the width on, two factors hold as much as the whole map


@dataclass(frozen=True)
class Form:
    """What stands for a unit: nothing, or a map of this kind."""

    kind: Kind
    rank: int | None = None

    def __str__(self) -> str:
        return self.kind if self.rank is None else f"{self.kind} {self.rank}"

    @staticmethod
    def parse(text: str) -> Form:
        """Read what `str` gives. Raises LinscoreError for anything else."""
        match = re.fullmatch(r"([a-z]+)(?: (\d{1,9}))?", text)
        if match is None or match[1] not in get_args(Kind) or (match[2] is None) == (match[1] == "rank"):
            raise LinscoreError(f"{text!r} is no form: write {', '.join(get_args(Kind))}, a rank like rank 8")
        return Form(match[1], match[2] and int(match[2]))  # type: ignore[arg-type]


Choice = Mapping[Unit, Form]


DROP = Form("drop")


def forms_of(width: int) -> list[Form]:
    """All forms of a unit of a decoder of this width, the one that holds least first."""
    ranks = sorted({width // part for part in PARTS_OF_WIDTH} - {0})
    return [DROP, Form("mean"), Form("diagonal"), *(Form("rank", rank) for rank in ranks), Form("affine")]


def replaced(choice: Choice, unit: Unit) -> Choice:
    """What of a choice goes where `unit` gets a form."""
    return {one: form for one, form in choice.items() if one.overlaps(unit)}


def with_form(choice: Choice, unit: Unit, form: Form) -> Choice:
    """A choice in which `unit` has a form; a block both parts of which are dropped is dropped."""
    becomes = {one: had for one, had in choice.items() if not one.overlaps(unit)} | {unit: form}
    parts = [Unit(unit.span, part) for part in PARTS if unit.part]
    if parts and all(becomes.get(part) == DROP for part in parts):
        return {one: had for one, had in becomes.items() if one not in parts} | {Unit(unit.span): DROP}
    return becomes
