"""A long run that is gone on with: its folder says what it was begun with, so that no other run goes on there.

settings.json   the settings, places as they lie from here, and what was found out before the first step
.lock           which process works there, while one does
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from linscore.embedded.shipped import SHIPPED
from linscore.errors import Interrupted, LinscoreError
from linscore.files.json_file import read_json
from linscore.files.lock import Lock
from linscore.files.parts import remove_leftovers
from linscore.files.places import lies_from
from linscore.files.whole import new_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["SETTINGS", "RunFolder", "difference", "setting_of"]

AnySettings = TypeVar("AnySettings", bound="DataclassInstance")
SETTINGS = "settings.json"


class RunFolder:
    """Begins a run in a folder of its own, or goes on with the one that is there; entered, so that others can follow.

    Args:
        path: of the folder.
        settings: a dataclass of what makes the run the run it is.
        free: the names of those that may be others when it goes on.
        places: the names of those that may be relative paths, which are kept as they lie from the folder; whatever is
            an absolute one always is.
    """

    def __init__(
        self, path: Path, settings: DataclassInstance, *, free: Collection[str] = (), places: Collection[str] = ()
    ) -> None:
        self.path, self._free = path, free
        self._settings = {name: self._from_here(one, name in places) for name, one in asdict(settings).items()}
        self._begun, self._lock = False, Lock(path)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_error: object) -> None:
        """Let other processes work there."""
        self._lock.release()

    def check_new(self) -> None:
        """Whether a run can be begun.

        Raises:
            LinscoreError: when something is there.
        """
        if self.path.exists() or self.path.is_symlink():
            raise LinscoreError(f"{self.path} exists: `resume` the run in it, or give another `out`")

    def begin(self, **found: Any) -> None:
        """Make the folder, with the settings and what was `found` out about the run.

        Raises:
            LinscoreError: when something is there, or nothing can be written there.
        """
        self.check_new()
        with new_folder(self.path) as new:
            text = json.dumps(self._settings | found, indent=2) + "\n"
            (new / SETTINGS).write_text(text, encoding="utf-8")
        self._lock.take()
        self._begun = True

    def discard(self) -> None:
        """Remove the run that is there.

        Raises:
            LinscoreError: when another process works on it.
        """
        self._lock.take()
        shutil.rmtree(self.path)
        self._lock.release()

    def resume(self, kind: type[AnySettings]) -> AnySettings:
        """What the run was begun with: a dataclass of the settings and, where there is more in the file, of that.

        Raises:
            LinscoreError: when no run is there, it was begun with other settings, the file is damaged, or another
                process works there.
        """
        file = self.path / SETTINGS
        if not file.exists():
            raise LinscoreError(f"{self.path} holds no run to go on with: begin one, without `resume`")
        begun = read_json(file, kind, damaged=f"is damaged: remove {self.path} and start again")
        former = {name: self._from_here(one, False) for name, one in asdict(begun).items()}  # of version 0.1.0
        other = difference(former, self._settings, self._free)
        if other is not None:
            raise LinscoreError(f"{self.path} was begun with {other}: give the same, or another `out`")
        self._lock.take()
        remove_leftovers(self.path)
        return begun

    def _from_here(self, value: Any, relative: bool) -> Any:
        """A path as it lies from the folder, a `relative` one too; a Hub name, "embedded", "-" and all else as is."""
        if not isinstance(value, str) or value in (*SHIPPED, "-"):
            return value
        found = os.path.isabs(value) or (relative and Path(value).exists())
        return lies_from(self.path.resolve(), Path(value).resolve()) if found else value

    @contextmanager
    def kept(self, newest: Callable[[], Path | None]) -> Iterator[None]:
        """For the work itself: after an error a folder that was begun here stays if there is something to go on from.

        Args:
            newest: the last of what the run has saved; None where there is nothing yet.

        Raises:
            Interrupted: by Ctrl-C, where something stays.
        """
        try:
            yield
        except BaseException as error:
            last = newest()
            if last is None and self._begun:
                shutil.rmtree(self.path, ignore_errors=True)
            elif isinstance(error, KeyboardInterrupt):
                start = "anew" if last is None else f"from {last}"
                raise Interrupted(f"interrupted: go on {start} with `resume`, {self.path} stays") from error
            raise


def setting_of(path: Path, name: str) -> str | None:
    """A setting of the run in a folder, a place as it lies from here; None where there is no such run.

    Raises:
        LinscoreError: when the file of the settings is damaged.
    """
    file = path / SETTINGS
    if not file.exists():
        return None
    found = str(read_json(file, dict[str, Any], damaged="is damaged").get(name))
    return str((path / found).resolve()) if (path / found).exists() else found


def difference(begun: Mapping[str, Any], asked: Mapping[str, Any], free: Collection[str] = ()) -> str | None:
    """The first of the settings `asked` that the run was not begun with, as "`seed=0`, not 1"; None: there is none."""
    other = next((name for name in asked if name not in free and begun.get(name) != asked[name]), None)
    if other is None:
        return None
    was, wanted = begun.get(other), asked[other]
    if was is None or wanted is None:
        return f"{_named(other, was)}, not {_named(other, wanted)}"
    return f"`{other}={was}`, not {wanted}"


def _named(name: str, value: Any) -> str:
    return f"no `{name}`" if value is None else f"`{name}={value}`"
