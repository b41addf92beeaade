"""Places on this machine in files that others get: as they lie from the file's folder, not from the root.

What results call `NAMES` is kept as it was typed: Hub names, "embedded", "-" and relative paths. An absolute path is
written as "./../models/tiny" is, seen from the folder, and is absolute again once it is read, wherever the folder lies
by then. All of it is done on names alone, without following links (decisions: Places in files).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["lies_from", "plain", "read_places", "within", "written_places"]

NAMES = frozenset(
    ("model", "teacher", "text", "dataset", "data", "scored_text", "checkpoints", "base_model_name_or_path")
)
HERE = "./.."  # which tells them from "../models/tiny" as it was typed: that is seen from where the user is


def lies_from(folder: str | Path, path: str | Path) -> str:
    """A path as it lies from a folder; absolute where there is no way, as between the drives of Windows."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return os.path.abspath(path)


def plain(name: str) -> str:
    """A name, an absolute path in one spelling: without "..", doubled slashes and one at the end."""
    return os.path.abspath(name) if os.path.isabs(name) else name


def within(line: str, place: str) -> str:
    """A line about what lies in `place`, which has its last part alone where that is absolute."""
    path = Path(place)
    return line.replace(str(path), path.name) if path.is_absolute() and path.name else line


def written_places(data: Any, folder: str | Path) -> Any:
    """JSON data for a file in `folder`."""

    def written(name: str) -> str:
        if not (os.path.isabs(name) or _is_written(name)):
            return name
        above = os.path.dirname(os.path.abspath(folder))
        found = lies_from(above, name)
        return found if os.path.isabs(found) else f"{HERE}/{Path(found).as_posix()}".removesuffix("/.")

    return _changed(data, written)


def read_places(data: Any, folder: str | Path) -> Any:
    """What `written_places` was given, of the data of a file in `folder`."""
    return _changed(data, lambda name: plain(os.path.abspath(Path(folder, name)) if _is_written(name) else name))


def _is_written(name: str) -> bool:
    return name == HERE or name.startswith(f"{HERE}/")


def _changed(data: Any, change: Callable[[str], str], named: bool = False) -> Any:
    """`data` with every string changed that stands under one of `NAMES`, alone or in a list."""
    if isinstance(data, dict):
        return {key: _changed(value, change, key in NAMES) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_changed(one, change, named) for one in data]
    return change(data) if named and isinstance(data, str) else data
