"""From the names of checkpoints, folders of them or revisions to a series with steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from linscore.dynamics.series import Checkpoint
from linscore.embedded.shipped import SHIPPED
from linscore.errors import LinscoreError
from linscore.files.places import plain

__all__ = ["checkpoint_series", "modified"]

_STEP = re.compile(r"(?:checkpoint|ckpt|step|iter|iteration|epoch)[-_]?(\d+)", re.IGNORECASE)
_WEIGHTS = (".safetensors", ".bin")


def checkpoint_series(checkpoints: Sequence[str], revisions: str | None = None) -> list[Checkpoint]:
    """The checkpoints of a series, in the order given, with their steps.

    Args:
        checkpoints: folders or Hub names; a folder with subfolders such as `checkpoint-500` or `step_500` that hold a
            `config.json` stands for these, in the order of their numbers, and not for a model of its own.
        revisions: of a single Hub name, separated by commas, in its place.

    Returns:
        Each with the number in its name (of the folder or revision), its place in the series where that has none.

    Raises:
        LinscoreError: there are none, `revisions` has no Hub name, or the steps make no axis.
    """
    if revisions is None:
        names: list[tuple[str, str | None]] = [(name, None) for given in checkpoints for name in _expanded(given)]
    else:
        names = [(checkpoints[0], revision) for revision in _revisions(checkpoints, revisions)]
    if not names:
        raise LinscoreError("there is no checkpoint: give folders, or a Hub name with `revisions`")
    numbers = [_number(name if revision is None else revision) for name, revision in names]
    steps = [place if number is None else number for place, number in enumerate(numbers)]
    # In front of numbered checkpoints a place is right, the start of training; behind them it would be drawn there too.
    out_of_place = None in numbers and set(numbers) != {None} and steps != sorted(steps)
    if len(set(steps)) < len(steps) or out_of_place:
        raise LinscoreError(
            f"the checkpoints would be steps {', '.join(map(str, steps))}: give each a number of its own in its name, "
            "such as checkpoint-500, or leave out those without"
        )
    return [Checkpoint(step, plain(name), revision) for step, (name, revision) in zip(steps, names, strict=True)]


def modified(checkpoint: Checkpoint) -> int | None:
    """When the newest file of its weights was written, in ns since 1970; None where it is no folder here."""
    folder = Path(checkpoint.name)
    files = [path for path in folder.iterdir() if path.suffix in _WEIGHTS] if folder.is_dir() else []
    return max((path.stat().st_mtime_ns for path in files), default=None)


def _revisions(checkpoints: Sequence[str], revisions: str) -> list[str]:
    found = [revision.strip() for revision in revisions.split(",") if revision.strip()]
    if not found:
        raise LinscoreError("`revisions` is empty: name branches or tags, such as step1000,step2000")
    if len(checkpoints) != 1 or Path(checkpoints[0]).exists() or checkpoints[0] in SHIPPED:
        raise LinscoreError(f"`revisions` belongs to one Hub name, not to {' '.join(checkpoints)}: leave it out")
    return found


def _expanded(name: str) -> list[str]:
    """The checkpoints within a folder, in the order of their steps; the name itself where there are none."""
    folder = Path(name)
    if not folder.is_dir():
        return [name]
    whole = (path.parent for path in folder.glob("*/config.json") if not path.parent.name.startswith("."))
    steps = {str(path): _number(path.name) for path in whole}
    found = sorted((step, inner) for inner, step in steps.items() if step is not None)
    return [inner for _, inner in found] or [str(folder)]


def _number(name: str) -> int | None:
    """The step in the last part of a name: 500 of "run-7/checkpoint-500" and of "stage1-step500-tokens2B"."""
    found = _STEP.search(Path(name).name)
    return None if found is None else int(found[1])
