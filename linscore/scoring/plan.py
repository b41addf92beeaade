"""How a score would be placed on devices: what each way takes, how long it lasts, and which one "auto" means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from linscore.errors import LinscoreError
from linscore.machine.devices import DISK, Devices
from linscore.machine.extras import EXTRAS, how_to_get, missing
from linscore.scoring.needs import Needs

__all__ = ["SHARE", "Placed", "Plan", "make_plan", "size"]

# Of the rate of a plain product, what a whole score reaches, and what its solves do: assumed.
SHARE = {"cpu": 0.6, "cuda": 0.4}
SOLVE_SHARE = {"cpu": 0.15, "cuda": 0.03}
MARGIN = 1.25  # what is estimated to take up to so many times what is free is tried, where nothing takes less
FITS = {
    "whole": "all of it fits",
    "map": "it does not fit on one device, and spread over all of them it does",
    "stream": "it does not fit at once, and block by block it does",
}


@dataclass(frozen=True)
class Placed:
    """What one placement takes. All bytes; `…_bound` is for a model whose every block meets attention sinks."""

    placement: str
    device: int  # on each device; on a CPU in its memory
    device_bound: int
    host: int  # in host memory beside; 0 on a CPU
    host_bound: int
    scratch: int  # in files, where a folder is given for them
    passes: int | None  # over the weights; None: a text of unknown length
    seconds: float | None
    obstacle: str | None  # why it cannot be taken

    def share(self, devices: Devices, *, bound: bool) -> float:
        """How much of what is free it takes, of device or host, whichever is more; 0 where nothing says."""
        needed = (self.device_bound, self.host_bound) if bound else (self.device, self.host)
        free = (devices.memory, devices.host)
        return max(need / max(1, have) if have is not None else 0.0 for need, have in zip(needed, free, strict=True))


@dataclass(frozen=True)
class Plan:
    """What a score of a model takes, and where it would run."""

    model: str
    dtype: str
    folds: int
    sequences: int  # in a batch
    length: int
    tokens: int | None
    needs: Needs
    devices: Devices
    ways: list[Placed]
    placement: str | None  # the one that is taken; None: none fits
    why: str

    @property
    def taken(self) -> Placed | None:
        """The placement that is taken."""
        return next((way for way in self.ways if way.placement == self.placement), None)

    def check(self) -> Placed:
        """The placement that is taken.

        Raises:
            LinscoreError: where none fits, with what would help.
        """
        if self.taken is None:
            raise LinscoreError(f"{self.model} does not fit: {self.why}")
        return self.taken

    def line(self) -> str:
        """The placement, what it takes about, and why it is taken."""
        taken = self.check()
        beside = f" and {size(taken.host)} of host memory" if taken.host else ""
        return f"placement {taken.placement}: about {size(taken.device)} of {self.devices.name}{beside}; {self.why}"


def make_plan(
    needs: Needs,
    devices: Devices,
    *,
    tokens: int | None,
    room: int | None,
    scratch: bool = False,
    wanted: str = "auto",
    **about: Any,
) -> Plan:
    """Weigh the placements.

    Args:
        needs: of the score.
        devices: what it may run on.
        tokens: of the text; None: not known.
        room: bytes of states that `stream` keeps at once; None: all.
        scratch: whether it keeps them, and the moments, in files.
        wanted: a placement, or "auto" for the first that fits: whole, map, stream.
        about: model, dtype, folds, sequences and length.
    """
    ways = [
        _whole(needs, devices, tokens),
        _map(needs, devices, tokens),
        _stream(needs, devices, tokens, room, scratch),
    ]
    placement, why = _choose(ways, devices) if wanted == "auto" else _asked(ways, needs, devices, wanted)
    return Plan(needs=needs, devices=devices, tokens=tokens, ways=ways, placement=placement, why=why, **about)


def _whole(needs: Needs, devices: Devices, tokens: int | None) -> Placed:
    held = needs.sizes.weights + needs.moments
    seconds = _seconds(needs, devices, tokens, devices.count)
    return Placed("whole", held + needs.work, held + needs.moments + needs.work_bound, 0, 0, 0, 1, seconds, None)


def _map(needs: Needs, devices: Devices, tokens: int | None) -> Placed:
    share = -(-needs.depth // devices.count) / needs.depth  # of the blocks, on the device that has most
    moments = int(share * needs.moments)
    held = needs.sizes.outside + int(share * needs.sizes.blocks) + moments
    seconds = _seconds(needs, devices, tokens, 1)  # one device works at a time
    alone = "there is one device only" if devices.count == 1 else None
    return Placed("map", held + needs.work, held + moments + needs.work_bound, 0, 0, 0, 1, seconds, alone or _missing())


def _stream(needs: Needs, devices: Devices, tokens: int | None, room: int | None, scratch: bool) -> Placed:
    """One block, and what is kept of all; the figures are taken once no block is there any more."""
    block, every = needs.sizes.largest_block, None if tokens is None else needs.state * tokens
    states = min((size for size in (room, every) if size is not None), default=0)
    passes = None if every is None else -(-every // max(1, states))
    kept = 0 if scratch else states + needs.moments
    seconds = _seconds(needs, devices, tokens, 1)
    if seconds is not None and passes is not None:
        seconds = max(seconds, passes * needs.sizes.blocks / min(DISK, devices.link))
    held = needs.sizes.outside + needs.kept + max(block + needs.batch, needs.solve, needs.loss)
    bound = max(held, needs.sizes.outside + needs.kept + needs.solve_bound)
    host, host_bound = block + kept, block + kept + (0 if scratch else needs.moments)
    own = 0 if devices.kind == "cpu" and not scratch else needs.block_moments  # beside those that are kept
    device, device_bound = held + own, bound + 2 * own
    if devices.kind == "cpu":
        device, device_bound, host, host_bound = device + host, device_bound + host_bound, 0, 0
    files = states + needs.moments if scratch else 0
    return Placed("stream", device, device_bound, host, host_bound, files, passes, seconds, _missing())


def _choose(ways: list[Placed], devices: Devices) -> tuple[str | None, str]:
    """The first placement that fits, and why."""
    able = [way for way in ways if way.obstacle is None]
    for way in able:
        if way.share(devices, bound=True) <= 1:
            return way.placement, FITS[way.placement]
    least = min(able, key=lambda way: way.share(devices, bound=False))
    if least.share(devices, bound=False) <= MARGIN:
        return least.placement, "nothing leaves room for heavy rows in every block, and this needs least"
    return None, _too_large(able[-1], ways, devices)


def _asked(ways: list[Placed], needs: Needs, devices: Devices, wanted: str) -> tuple[str | None, str]:
    """The placement that is asked for, unless it cannot be."""
    way = next(way for way in ways if way.placement == wanted)
    mapped = needs.sizes.weights if devices.kind == "cpu" and wanted == "whole" else 0  # files, which may be read again
    sure = replace(way, device=way.device - mapped)
    if wanted != "map" and sure.share(devices, bound=False) > MARGIN:  # a map puts what does not fit elsewhere
        return None, _too_large(way, ways, devices)
    return wanted, "as asked"


def _too_large(way: Placed, ways: list[Placed], devices: Devices) -> str:
    """What a placement lacks, and what would help."""
    lacks = [
        f"{size(need)} {where}, where {size(free)} are free"
        for need, free, where in (
            (way.device, devices.memory, "of the device"),
            (way.host, devices.host, "of the host"),
        )
        if free is not None and need > free
    ]
    helps = ["fewer `folds`", "a smaller `batch_size`"]
    if way.placement == "stream" and not way.scratch:
        helps.append("a folder as `scratch`")
    others = [one for one in ways if one is not way and one.obstacle is None]
    if any(one.share(devices, bound=False) <= MARGIN for one in others):
        helps.insert(0, "`placement=auto`")
    obstacle = next((one.obstacle for one in ways if one.placement == "stream"), None)
    if obstacle is not None:
        helps.insert(0, f"`placement=stream` ({obstacle})")
    return f"`placement={way.placement}` takes about {' and '.join(lacks)}: give {', or '.join(helps)}"


def _seconds(needs: Needs, devices: Devices, tokens: int | None, processes: int) -> float | None:
    """Of the blocks on all tokens, as many devices at once as there are processes, and of the figures."""
    if tokens is None or devices.matrix is None:
        return None
    collect = tokens * needs.flops / (SHARE[devices.kind] * devices.matrix * processes)
    return collect + needs.solve_flops / (SOLVE_SHARE[devices.kind] * devices.matrix)


def _missing() -> str | None:
    gone = missing(EXTRAS["large"])
    return f"{' and '.join(gone)} is missing: {how_to_get('large')}" if gone else None


def size(count: float) -> str:
    """Bytes for people: 812 GB."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if count >= 0.9995 * 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count / 1000:.0f} kB"
