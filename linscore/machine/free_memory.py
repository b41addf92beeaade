"""How much memory is free: of the host, within what this process may have of it."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

CGROUPS = (  # (what may be had, what is), of version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_host_memory() -> int | None:
    """Bytes that this process can still have of the host's memory; None where nothing says."""
    return min(_bounds(), default=None)


def _bounds() -> Iterator[int]:
    available = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    if available:
        yield int(available[1]) << 10
    for most, used in CGROUPS:
        allowed, taken = _read(most).strip(), _read(used).strip()
        if allowed.isdigit() and taken.isdigit():
            yield max(0, int(allowed) - int(taken))
    data = re.search(r"^VmData:\s+(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if data and limit != resource.RLIM_INFINITY:
        yield max(0, limit - (int(data[1]) << 10))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
