"""How much memory a step takes, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import profile


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Of what `step` allocates, the most that lived at once: by the allocator on a GPU, else by the profiler."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
