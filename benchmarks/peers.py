"""Interleaved timing: ours and its peers in turn, so that a machine whose speed drifts drifts for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def compare(benchmark: Any, ours: Callable[[], Any], peers: dict[str, Callable[[], Any]], rounds: int = 5) -> None:
    """Time `ours` by pytest-benchmark and each peer right before it, every round; ratios go to extra_info."""
    times: dict[str, list[float]] = {name: [] for name in peers}

    def run_peers() -> None:
        for name, peer in peers.items():
            started = time.perf_counter()
            peer()
            times[name].append(time.perf_counter() - started)

    benchmark.pedantic(ours, setup=run_peers, rounds=rounds, warmup_rounds=1)
    own = benchmark.stats.stats.data
    for name, measured in times.items():
        measured = measured[-len(own) :]  # without the warm-up
        benchmark.extra_info[f"{name}: median s"] = round(statistics.median(measured), 4)
        ratios = [theirs / mine for theirs, mine in zip(measured, own, strict=True)]
        benchmark.extra_info[f"{name}: median ratio to ours"] = round(statistics.median(ratios), 3)
