"""How options are declared: a field of a dataclass, with what its help says."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, meaning: str, metavar: str | None = None, flag: str | None = None) -> Any:
    """A field that `linscore.cli.takes` makes an option of; `flag` is its name where that is not the field's own."""
    return field(default=default, metadata={"help": meaning, "metavar": metavar, "flag": flag})
