"""One comparison: ours by pytest-benchmark, each peer right after it in every round, the ratios into extra_info."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import torch
from shapes import DEVICE

from linscore.machine.kernel_cases import Case
from linscore.machine.timing import Timing, calibrated, calls_per_sample, floor, rates, seconds_per_call

if DEVICE.type == "cuda":
    from expected import kernel_seconds  # which asks for Triton

PATIENCE = 6.0  # seconds: a comparison that takes longer is cut to fewer rounds
FEWEST = 3  # rounds


def compare(
    benchmark: Any,
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any]],
    *,
    shape: str,
    dtype: torch.dtype,
    rounds: int = 7,
    fewest: int = FEWEST,
    long: bool = False,
    **info: Any,
) -> Timing:
    """Time `ours` and `peers` in turn, `fewest` to `rounds` times; `info` goes into the results beside the ratios.

    `long` ones take seconds: no call is spent on finding out how many make a sample.
    """
    ours()
    if long:
        once, seconds, missing = inf, dict.fromkeys(peers, inf), {}
    else:
        once, (seconds, missing) = seconds_per_call(ours, 1), calibrated(peers)
    times: dict[str, list[float]] = {name: [] for name in seconds}

    def run_peers() -> None:
        for name, measured in times.items():
            measured.append(seconds_per_call(peers[name], calls_per_sample(seconds[name])))

    rounds = max(min(fewest, rounds), min(rounds, int(PATIENCE / (once + sum(seconds.values())))))
    benchmark.pedantic(ours, teardown=run_peers, rounds=rounds, iterations=calls_per_sample(once))
    own = benchmark.stats.stats.data
    # Without the extra call that pytest-benchmark makes where there are several iterations.
    timing = Timing(own, {name: measured[: len(own)] for name, measured in times.items()}, missing)
    benchmark.extra_info |= {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "peers": {name: {"median_s": timing.peer_median(name), "ratio": timing.ratio(name)} for name in times},
        "figures": {f"{name} did not run": why for name, why in missing.items()},
        **info,
    }
    return timing


def compare_case(benchmark: Any, case: Case, d: int, tokens: int, dtype: torch.dtype, rounds: int = 7) -> None:
    """One kernel against its peers and its floor."""
    timing = compare(
        benchmark, case.ours, case.peers, shape=f"d = {d}, {tokens:,} tokens", dtype=dtype, rounds=rounds, d=d, n=tokens
    )
    machine = rates(DEVICE, case.rate_dtype)
    add_floor(benchmark, floor(case.flop, case.moved, machine))
    if DEVICE.type == "cuda" and (expected := kernel_seconds(case.kernel, d, tokens, dtype)):
        benchmark.extra_info["expected_s"] = expected
    prefix, unit = ("T", 1e12) if DEVICE.type == "cuda" else ("G", 1e9)
    figures = benchmark.extra_info["figures"]
    figures[f"{prefix}B/s"], figures[f"{prefix}B/s of a copy"] = case.moved / timing.median / unit, machine.copy / unit
    if case.flop:
        figures[f"{prefix}FLOP/s of the floor's work"] = case.flop / timing.median / unit
        figures[f"{prefix}FLOP/s of a plain product"] = machine.matrix / unit


def add_floor(benchmark: Any, least: float) -> None:
    """Set what was measured beside the least that it could be, in seconds."""
    benchmark.extra_info |= {"floor_s": least, "share": least / benchmark.stats.stats.median}
