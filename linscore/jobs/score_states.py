"""The job of `linscore score-states`: from a folder of hidden states to a saved report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from linscore.errors import LinscoreError
from linscore.files.lock import alone_in
from linscore.files.parts import remove_leftovers
from linscore.jobs.score_place import Former, default_folder
from linscore.machine.device import choose_device
from linscore.options.place import PlaceOptions, SaveOptions
from linscore.options.score import ScoreOptions
from linscore.options.text import StatesOptions
from linscore.progress import TokenProgress
from linscore.scoring.given_states import GivenStates
from linscore.scoring.report import MOMENTS, REPORT, Report, ScoreWarning
from linscore.scoring.state_files import StoredStates, open_states, state_files
from linscore.spans import parse_blocks
from linscore.text.folds import FoldDealer

PIECE = 1 << 28  # bytes of states that are in memory at once, as float32


def run_score_states(
    folder: str,
    *,
    stored: StatesOptions | None = None,
    scoring: ScoreOptions | None = None,
    place: PlaceOptions | None = None,
    saving: SaveOptions | None = None,
    out: str | None = None,
) -> tuple[Report, tuple[Path, Path]]:
    """Score the blocks between hidden states in files (`state_files`), and save the result as `run_score` does.

    Each file is one text, dealt to one fold; no more than a piece of one is in memory.

    Returns:
        The report, and the paths of `report.json` and `moments.safetensors`.

    Raises:
        LinscoreError: for files that cannot be used, or where `out` holds the result of another model or text and
            `saving.overwrite` is not set; what was there stays.
    """
    stored, scoring = stored or StatesOptions(), scoring or ScoreOptions()
    name, device = stored.model or folder, choose_device(place.device if place else "auto")
    files, others = state_files(Path(folder))
    with alone_in(out or default_folder(name)) as result:
        if saving is None or not saving.overwrite:
            Former(result).check_names(name, folder)
        report = _scored(files, stored, scoring, device, name, folder)
        if others:
            line = f"left out, no files of states: {len(others)}, such as {others[0].name}"
            report = replace(report, warnings=[*report.warnings, ScoreWarning("text", line)])
        paths = report.save(result)
        remove_leftovers(result, REPORT, MOMENTS)
    return report, paths


def _scored(
    files: list[Path], stored: StatesOptions, scoring: ScoreOptions, device: torch.device, name: str, text: str
) -> Report:
    first, count = _which(stored)
    # The first positions of a text are left out here: a text comes in pieces.
    options = replace(scoring, skip_first=0)
    given = GivenStates(options, last_is_normed=not stored.raw_last, first=first, unless="`raw_last`")
    dealer = FoldDealer(scoring.folds)
    with TokenProgress(None, "scoring") as progress:
        for path in files:
            states = open_states(path)
            if count not in (None, states.shape[1]):
                raise LinscoreError(f"{path} has {states.shape[1]} states of a token, and `states` names {count}")
            fold = torch.tensor([dealer.next()])
            with _in_file(path):
                for pieces, mask, ids in _pieces(states, scoring.skip_first, device):
                    progress.advance(given.add(pieces, mask, input_ids=ids, folds=fold))
    return replace(given.report(name=name, text=text), skip_first=scoring.skip_first)


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Whatever is wrong is said of this file."""
    try:
        yield
    except LinscoreError as error:
        if str(error).startswith(str(path)):
            raise
        raise LinscoreError(f"{path}: {error}") from error


def _which(stored: StatesOptions) -> tuple[int, int | None]:
    """The first of the states that a token has, and how many they are; None: as many as come."""
    if stored.states is None:
        return 0, None
    states = parse_blocks(stored.states)
    if len(states) < 2 or states != list(range(states[0], states[0] + len(states))):
        raise LinscoreError(
            f"`states={stored.states}` are not one after the other: a block is between two that are, so give a dump of "
            "such"
        )
    return states[0], len(states)


def _pieces(
    states: StoredStates, skip_first: int, device: torch.device
) -> Iterator[tuple[list[Tensor], Tensor, Tensor | None]]:
    """States `[1, t, d]` each of consecutive tokens, which of them count `[1, t]`, and their ids."""
    tokens, count, width = states.shape
    counts = torch.ones(tokens, dtype=torch.bool) if states.mask is None else states.mask != 0
    counts &= counts.cumsum(0) > skip_first
    size = max(1, PIECE // (4 * count * width))
    for first in range(0, tokens, size):
        some = slice(first, first + size)
        ids = None if states.ids is None else states.ids[some][None]
        yield [one[None].to(device) for one in states.piece(some.start, some.stop)], counts[some][None], ids
