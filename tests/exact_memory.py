"""How much memory a step takes, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import profile


def peak(step: Callable[[], object]) -> int:
    """Most bytes allocated at once while `step` runs, by the profiler's own record."""
    with profile(profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
