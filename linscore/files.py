"""Files that are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the name `path` once the context is left without an error."""
    new = path.with_name(f".{path.name}")
    yield new
    os.replace(new, path)
