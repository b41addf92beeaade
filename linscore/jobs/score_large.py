"""Scoring a model that is larger than its device: block by block, with what is kept meanwhile in memory or files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from linscore.decoder.block_by_block import INSTEAD
from linscore.errors import LinscoreError
from linscore.jobs.plan import AUTO, room_of
from linscore.machine.free_memory import free_host_memory
from linscore.machine.processes import ALONE, Processes, check_single
from linscore.models.load import Pretrained, load_pretrained, weights_on_disk
from linscore.options.place import LargeOptions, PlaceOptions
from linscore.options.score import ScoreOptions
from linscore.progress import say
from linscore.scoring.plan import Plan
from linscore.scoring.streamed import Streamed

QUIET = 10**9  # bytes of weights: of where a smaller model is, nothing is said
SMALL = 64  # times the weights are less than what is free: then all of it fits, and nothing is planned


class PlacedModel(NamedTuple):
    """A model, and the way to run it where it came without the weights of its blocks."""

    loaded: Pretrained
    streamed: Streamed | None = None


def check_large(large: LargeOptions) -> None:
    """Before a model is loaded.

    Raises:
        LinscoreError: for a `scratch` that is not there, or that nothing would be kept in, or for several processes,
            each of which would spread the model.
    """
    if large.placement == "map":
        check_single(
            "score of a model that is spread over devices", "give `placement=stream`, or start it without torchrun"
        )
    if large.scratch is None:
        return
    if large.placement not in (AUTO, "stream"):
        raise LinscoreError(f"`scratch` is of `placement=stream`, and it is {large.placement}: give one or the other")
    if not Path(large.scratch).is_dir():
        raise LinscoreError(f"`scratch={large.scratch}` is no folder: make one, on a disk with room")


def with_gradients(large: LargeOptions) -> LargeOptions:
    """Where a model is placed through which gradients are to come.

    Raises:
        LinscoreError: where it is asked for in pieces.
    """
    if large.placement not in (AUTO, "whole"):
        raise LinscoreError(
            f"`sensitivity` takes gradients through the whole model, and `placement={large.placement}` has it in "
            "pieces: give `placement=whole`, or leave out `sensitivity`"
        )
    return replace(large, placement="whole")


def load_placed(
    model: str,
    place: PlaceOptions,
    large: LargeOptions,
    planned: Callable[[], Plan],
    scoring: ScoreOptions | None = None,
    *,
    processes: Processes = ALONE,
) -> PlacedModel:
    """Load `model` where `large.placement` says, or for "auto" where a score of it fits; for several processes whole.

    A line on standard error says where that is, of a large model.

    Args:
        model: its name.
        place: what it is computed in, and where.
        large: how it is placed.
        planned: makes the plan of the score.
        scoring: what is scored.
        processes: that score together.

    Raises:
        LinscoreError: as `load_pretrained`, where the score cannot fit, or for a family that cannot be placed as asked.
    """
    scoring = scoring or ScoreOptions()
    plan, options = None, {**asdict(place), "encoder": scoring.encoder}
    placement = "whole" if large.placement == AUTO else large.placement
    if processes.count == 1 and not _is_small(model, scoring.folds):
        with suppress(LinscoreError):  # which loading says, or what is not worked out
            plan = planned()
    if plan is not None:
        placement = plan.check().placement
        if placement != "whole" or plan.needs.sizes.weights >= QUIET:
            say(plan.line())
    try:
        loaded = load_pretrained(model, placement=placement, **options)
        return PlacedModel(loaded, _stream_of(loaded, large, processes))
    except LinscoreError as error:  # quantized, or a family whose blocks need more
        if large.placement != AUTO or not str(error).endswith(INSTEAD):
            raise
        say(f"{str(error).removesuffix(INSTEAD)}; placement map")
        return PlacedModel(load_pretrained(model, placement="map", **options))


def _is_small(model: str, folds: int) -> bool:
    """Whether the files of a model say that all of it fits, which is seen at once."""
    size, free = weights_on_disk(model), free_host_memory()
    return size is not None and free is not None and SMALL * folds * size < free


def _stream_of(loaded: Pretrained, large: LargeOptions, processes: Processes) -> Streamed | None:
    """The way to run a model that came without its blocks; None for one that has them.

    Several processes run a group of batches together: those on one machine share its memory, all of them a folder.

    Raises:
        LinscoreError: for a family whose blocks cannot run one at a time.
    """
    if loaded.weights is None:
        return None
    folder = None if large.scratch is None else Path(large.scratch)
    beside = processes.here if folder is None else processes.count
    room = processes.count * min(processes.all(room_of(large) // beside))
    return Streamed(loaded.decoder, loaded.weights, room=room, folder=folder)
