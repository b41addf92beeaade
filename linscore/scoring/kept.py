"""What a score keeps while it runs, so that it can be gone on with: the moments, and how far they have come.

position.json           how far: the last to be written, and what makes the files that it names a whole
moments-B.safetensors   the moments after B batches; moments-B.I, states-B.I: where the next batches, run one block at a
                        time, have come to block I
settings.json, .lock    see `linscore.files.run_folder`

Several processes add up what they have, and the first keeps that: any number of them can go on with it.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from linscore.errors import LinscoreError, LinscoreWarning
from linscore.files.full_disk import FullDiskError
from linscore.files.json_file import json_text, read_json
from linscore.files.run_folder import RunFolder
from linscore.files.whole import whole_file
from linscore.options.place import KeepOptions
from linscore.options.score import ScoreOptions
from linscore.scoring.collect import Collector
from linscore.scoring.first_loss import FirstLoss
from linscore.scoring.looks import Look
from linscore.scoring.midway import Midway
from linscore.statistics.moments import Moments
from linscore.statistics.moments_file import load_moments, save_moments, stored_names

__all__ = ["KEPT", "Kept", "Position", "Settings", "begin", "check_begin", "keeping"]

KEPT, POSITION = "scoring", "position.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What makes a score from Python the run it is, beside its batches and weights."""

    model: str
    folds: int
    skip_first: int
    precision: str
    sub_blocks: bool
    until_stable: float | None
    blocks: list[int] | None
    spans: list[str]
    fuse: list[str]
    fuse_output: list[str]
    skip_tokens: list[int]
    backend: str | None
    encoder: bool = False
    sensitivity: int | None = None

    @staticmethod
    def of(model: str, options: ScoreOptions) -> Settings:
        """The options as JSON knows them, whatever collections they came in."""
        given: dict[str, Any] = {one.name: getattr(options, one.name) for one in fields(options)}
        given |= {name: sorted(map(str, given[name])) for name in ("spans", "fuse", "fuse_output")}
        given |= {
            name: None if given[name] is None else sorted(map(int, given[name])) for name in ("blocks", "skip_tokens")
        }
        return Settings(model=model, **given)


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a score has come."""

    batches: int
    read: str  # SHA-256 of everything in them
    tokens: int  # that were meant to count
    nonfinite_rows: int
    seconds: float
    device: str  # its type
    weight_sample: list[float] | None
    loss: float | None  # the first, and of guessing
    guessing: float | None
    curve: list[Look]
    crowded: list[str]  # of a collector
    block: int | None = None  # the next one of batches that run through one block after the other
    group: int = 0  # how many batches these are
    group_parts: int = 0
    group_read: str = ""  # SHA-256 of everything in them

    @property
    def first_loss(self) -> FirstLoss | None:
        """On the first sequences."""
        return None if self.loss is None or self.guessing is None else FirstLoss(self.loss, self.guessing)

    def __post_init__(self) -> None:
        if (self.loss is None) != (self.guessing is None):
            raise ValueError("loss and guessing are not there together")
        if min(self.batches, self.tokens, self.nonfinite_rows, self.group, self.group_parts, self.block or 0) < 0:
            raise ValueError(f"{self.batches} batches and {self.tokens} tokens cannot be")


class Kept:
    """Saves moments and position of a score in a folder that is there, now and then.

    Args:
        folder: of the run.
        options: when it is saved.
    """

    def __init__(self, folder: Path, options: KeepOptions) -> None:
        self.folder, self._options = folder, options
        self._saved, self._tokens = time.monotonic(), 0

    def newest(self) -> Path | None:
        """What can be gone on from."""
        position = self.folder / POSITION
        return position if position.exists() else None

    def restore(self, collector: Collector) -> Position | None:
        """Give a new collector what was saved; None where nothing was.

        Raises:
            LinscoreError: for files that are damaged, or of other weights or another kind of device.
        """
        path = self.newest()
        if path is None:
            return None
        found = read_json(path, Position, damaged=f"is damaged: remove {self.folder} and start again")
        self.check_weights(found, collector)
        if found.device != collector.device.type:
            raise LinscoreError(f"{self.folder} was begun on {found.device}: give that `device`, or another `out`")
        path = self._file("moments", found)
        for name in sorted(stored_names(path)):  # one after the other: all of them may be more than there is memory
            collector.merge(load_moments(path, [name])[0])
        collector.tokens, collector.nonfinite_rows = found.tokens, found.nonfinite_rows
        collector.crowded = set(found.crowded)
        collector.way.go_on(found.weight_sample)
        self._tokens = found.tokens
        return found

    def midway(self, found: Position) -> Midway | None:
        """Where batches were that ran through one block after the other; None where none did.

        Raises:
            LinscoreError: for a file that is damaged.
        """
        return None if found.block is None else Midway.load(self._file("states", found), found.block, found.group_parts)

    def check_weights(self, found: Position, collector: Collector) -> None:
        """Compare the weights with those that were saved, where both are known: of some models, once they have run.

        Raises:
            LinscoreError: where they differ.
        """
        was, now = found.weight_sample, collector.way.weight_sample
        if was is not None and now is not None and was != now:
            name = collector.decoder.name
            raise LinscoreError(f"{self.folder} was begun with other weights of {name}: give another `out`")

    def is_due(self, tokens: int) -> bool:
        """Whether it is time for a save, after so many tokens."""
        every = self._options.save_tokens
        if every is not None and tokens - self._tokens >= every:
            return True
        return time.monotonic() - self._saved >= 60 * self._options.save_minutes

    def save(self, position: Position, moments: dict[str, Moments], midway: Midway | None = None) -> None:
        """Save; what was saved before goes once this is whole.

        Raises:
            FullDiskError: what was saved before is still there.
        """
        self._saved, self._tokens = time.monotonic(), position.tokens  # where it fails, too: not at every batch then
        files = {self._file("moments", position)}
        try:
            save_moments(self._file("moments", position), moments)
            if midway is not None:
                files.add(self._file("states", position))
                with whole_file(self._file("states", position)) as new:
                    midway.save(new)
            with whole_file(self.folder / POSITION) as new:
                new.write_text(json_text(asdict(position), self.folder), encoding="utf-8")
        except BaseException:
            for file in files:
                file.unlink(missing_ok=True)
            raise
        for other in {*self.folder.glob("moments-*"), *self.folder.glob("states-*")} - files:
            other.unlink(missing_ok=True)

    def try_to_save(self, position: Position, moments: dict[str, Moments], midway: Midway | None = None) -> None:
        """Save; where there is no room, that is warned of and what is saved already stays."""
        try:
            self.save(position, moments, midway)
        except FullDiskError as error:
            warnings.warn(f"{error}; scoring goes on, with what was saved before", LinscoreWarning, stacklevel=2)

    def _file(self, kind: str, position: Position) -> Path:
        block = "" if position.block is None else f".{position.block}"
        return self.folder / f"{kind}-{position.batches}{block}.safetensors"


def check_begin(run: RunFolder, *, anew: bool = False) -> None:
    """Whether a run can be begun: one that was killed before its first save does not count, nor any if it is `anew`.

    Raises:
        LinscoreError: when there is a run to go on with.
    """
    if not anew and (run.path / POSITION).exists():
        run.check_new()


def begin(run: RunFolder) -> None:
    """Make the folder of a run, in the place of one that may be there.

    Raises:
        LinscoreError: when another process works on it, or nothing can be written there.
    """
    if run.path.exists():
        run.discard()
    run.begin()


@contextmanager
def keeping(run: RunFolder, options: KeepOptions | None) -> Iterator[Kept]:
    """For the score itself and the saving of its result, after which the run is removed; an interruption leaves it."""
    kept = Kept(run.path, options or KeepOptions())
    with run.kept(kept.newest):
        yield kept
    (run.path / POSITION).unlink(missing_ok=True)  # first: without it nothing is there to go on with
    shutil.rmtree(run.path)
