"""Times of calls taken in turns, and the rates that no program can beat.

floor = max(FLOP / matrix rate, bytes / copy rate)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from linscore_kernels.second_moments.eager_products import matmul

from linscore.machine.kernel_cases import Function

SAMPLE_SECONDS = 0.02  # of one sample: launches then hide behind the GPU's work, and the clock's ticks vanish

SIDES = {"cuda": (4096, 8192, 16384), "cpu": (1024, 2048, 3072)}  # square products; which is fastest differs by machine

QUICK_SIDES = {"cuda": 8192, "cpu": 1024}

COPY_BYTES = {"cuda": 2 << 30, "cpu": 512 << 20}  # far larger than any cache


@dataclass(frozen=True)
class Rates:
    """What a machine does at best."""

    matrix: float  # FLOP per second of a plain matrix product
    copy: float  # bytes per second, read and written, of a plain copy


@dataclass(frozen=True)
class Timing:
    """Seconds per call, round by round."""

    ours: list[float]
    peers: dict[str, list[float]]
    missing: dict[str, str]  # peers that do not run here, and why

    @property
    def median(self) -> float:
        """Of ours."""
        return statistics.median(self.ours)

    def peer_median(self, name: str) -> float:
        """Of one peer."""
        return statistics.median(self.peers[name])

    def ratio(self, name: str) -> float:
        """How many times longer a peer takes: the median of the rounds' ratios, which drift does not touch."""
        return statistics.median(theirs / mine for theirs, mine in zip(self.peers[name], self.ours, strict=True))


def clock() -> float:
    """Seconds on a steady clock, once the GPU has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_per_call(function: Function, calls: int) -> float:
    """The mean time of `calls` calls in a row."""
    started = clock()
    for _ in range(calls):
        function()
    return (clock() - started) / calls


def calls_per_sample(seconds: float) -> int:
    """How many calls of so many seconds make a sample."""
    return max(1, round(SAMPLE_SECONDS / seconds))


def calibrated(functions: Mapping[str, Function]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of one call of each, and why the others do not run here: no compiler, no memory, an older torch."""
    seconds, missing = {}, {}
    for name, function in functions.items():
        found = _seconds_or_obstacle(function)
        if isinstance(found, str):
            missing[name] = found
        else:
            seconds[name] = found
    return seconds, missing


def _seconds_or_obstacle(function: Function) -> float | str:
    try:
        function()  # the first call compiles
        return seconds_per_call(function, 1)
    except Exception as error:  # whatever stops a peer must not stop the rest
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def interleaved(
    ours: Function, peers: Mapping[str, Function], rounds: int = 7, iterations: int | None = None
) -> Timing:
    """Time `ours` and each peer in turn; `iterations` calls in a sample, by default as many as it needs."""
    ours()
    functions, calls = [ours], [iterations or calls_per_sample(seconds_per_call(ours, 1))]
    seconds, missing = calibrated(peers)
    for name, once in seconds.items():
        functions.append(peers[name])
        calls.append(iterations or calls_per_sample(once))
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, count, measured in zip(functions, calls, times, strict=True):
            measured.append(seconds_per_call(function, count))
    return Timing(times[0], dict(zip(seconds, times[1:], strict=True)), missing)


def floor(flop: float, moved: float, rates: Rates) -> float:
    """Seconds below which no program can do `flop` operations and move `moved` bytes: both at once, at full speed."""
    return max(flop / rates.matrix, moved / rates.copy)


def rates(device: torch.device | str, dtype: torch.dtype) -> Rates:
    """Both rates of a device, the first for products of `dtype`."""
    return Rates(matrix_rate(torch.device(device), dtype), copy_rate(torch.device(device)))


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of the fastest plain product of square matrices, random because zeros would run faster."""
    best = 0.0
    for side in SIDES[device.type]:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        timing = interleaved(lambda a=left, b=right: matmul(a, b), {}, rounds=5)  # type: ignore[misc]
        best = max(best, 2 * side**3 / min(timing.ours))
    return best


@cache
def quick_matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """About the same within a tenth of a second, of one side: for what is expected, not for what is compared."""
    side = 1024 if dtype is torch.float64 else QUICK_SIDES[device.type]  # some GPUs have hardly any float64
    generator = torch.Generator(device).manual_seed(0)  # a caller's random numbers stay as they are
    left, right = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    function = lambda: matmul(left, right)  # noqa: E731
    function()
    return 2 * side**3 / min(seconds_per_call(function, 1) for _ in range(5))


@cache
def copy_rate(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    source = torch.randn(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    timing = interleaved(lambda: target.copy_(source), {}, rounds=5)
    return 2 * source.nbytes / min(timing.ours)
