"""The names of files and folders that are not whole yet: hidden, beside their place, and saying whose they are.

A process that is killed leaves them behind, and the next one that writes there removes them.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

__all__ = ["forget", "new_part", "parts_of", "remove_leftovers"]

PART = ".part-"
NAME = re.compile(rf"{re.escape(PART)}([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{8}}-(.+)")  # machine, process, chance, what it is
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
_own: set[str] = set()  # what this process is writing: its number may have been that of one that was killed


def new_part(path: Path) -> Path:
    """A name for what is to become `path`."""
    name = f"{PART}{_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    _own.add(name)
    return path.with_name(name)


def forget(part: Path) -> None:
    """This process is done with the name."""
    _own.discard(part.name)


def parts_of(path: Path) -> list[Path]:
    """What is to become `path`, or was when its process was killed."""
    found = ((part, NAME.fullmatch(part.name)) for part in path.parent.glob(f"{PART}*"))
    return [part for part, match in found if match is not None and match[3] == path.name]


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove what killed processes have left in `folder`: of these `names`, or of all names and in all depths.

    Without names no other process may be at work there: what another machine has left, or a former version, which did
    not say whose it is, goes then too.
    """
    for part in list(folder.glob(f"{PART}*") if names else folder.rglob(f"{PART}*")):
        if not _is_left(part.name, names):
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _is_left(part: str, names: Collection[str]) -> bool:
    match = NAME.fullmatch(part)
    if match is None:
        return not names
    machine, process, name = match.groups()
    if machine != _MACHINE:
        return not names
    return (not names or name in names) and not _is_alive(int(process), part)


def _is_alive(process: int, part: str) -> bool:
    """Whether the process that writes `part` is still there."""
    if process == os.getpid():
        return part in _own
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    return True
