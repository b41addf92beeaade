"""Which launch is the fastest on this GPU, and at which widths torch's own product is faster still: measured.

Every candidate is first held against float64 on the same random operands; one that is wrong, does not compile or does
not fit is skipped and named. The launch of a path is the one with the least geometric mean of times over the widths of
real models, among those that ran at all of them; torch gets the widths at which it beats that launch. What was measured
is handed over after each width, so that a run which ends early leaves the widths that it had.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import inf
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import torch
import triton

from ..errors import LinscoreError
from ..launching import capability
from ..second_moments.gluon_check import fault_apart
from .cases import Case, Product, product_of
from .parameters import KERNELS, LADDER, PATHS, TABLE, Entry, Launch, launch_table, nearest_entry

TOKENS = 16384  # as many as one accumulator takes
WIDE = 1024  # features: from here on a launch is chosen
ROUNDS = 10
TORCH = "torch"
# Relative Frobenius error against float64 that is not a fault: float32 sums of 16,384 products in a truncating tensor
# core lose up to 1024 · 2^-24 = 6e-5, and split ones, flushed every 1024 tokens, a sixteenth of it in three passes.
TOLERANCE = {"single": 1e-4, "split": 1e-5, "residual": 1e-4}
# block_m, block_n, block_k, warps, stages
TILES = (
    (128, 256, 32, 8, 4),
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (256, 128, 64, 8, 3),
    (128, 128, 32, 4, 4),
    (128, 128, 32, 8, 4),
    (128, 128, 64, 4, 3),
    (128, 128, 64, 8, 4),
    (64, 128, 64, 4, 4),
)
GROUPS = (8, 16)
A_STAGE_MORE = ("nested", "gluon")

Calls = dict[str, Callable[[], object]]
Timer = Callable[[Calls, torch.device], dict[str, float]]


def tune(
    device: torch.device | str,
    widths: Sequence[int] = LADDER,
    paths: Sequence[str] = PATHS,
    tokens: int = TOKENS,
    patience: float = inf,
    progress: Callable[[str], None] = lambda _: None,
    measured: Callable[[dict[str, Any]], None] = lambda _: None,
    timer: Timer | None = None,
) -> dict[str, Any]:
    """Measure `paths` on `device`, with random tokens.

    Args:
        device: the GPU that is to be tuned.
        widths: numbers of features, of LADDER: others are looked up by the nearest of these.
        paths: of PATHS.
        tokens: rows of the operands.
        patience: seconds after which no further candidate is tried.
        progress: told the path and the width that come next.
        measured: given the result so far, after each width.
        timer: in place of CUDA events: named calls and the device → seconds by name.

    Returns:
        What `write_table` takes: the device and versions, and in "paths" for each the chosen "launch", "torch_widths",
        all "seconds" by width and candidate, and what was "skipped" and why.

    Raises:
        LinscoreError: without a CUDA device.
    """
    device, end = torch.device(device), time.monotonic() + patience
    if timer is None and device.type != "cuda":
        raise LinscoreError(f"timing needs a CUDA device, not {device}: run this on the GPU that is to be tuned")
    architecture = capability(torch.empty(0, device=device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    result: dict[str, Any] = {"capability": architecture, "device": name, "tokens": tokens, "paths": {}}
    result |= {"torch": torch.__version__, "triton": triton.__version__}
    for path in paths:
        launches, known = candidates(architecture, path), nearest_entry(architecture, path)
        seconds, skipped = {}, {}
        for width in widths:
            if time.monotonic() > end:
                break
            progress(f"{path}, {width} features")
            case = Case(path, width, tokens, device, known.launch.flush)
            seconds[width], skipped[width] = measure(case, launches, timer or cuda_seconds, end)
            found = asdict(choose(launches, seconds, known))
            result["paths"][path] = found | {"seconds": seconds, "skipped": skipped}
            measured(result)
    return result


def candidates(architecture: int, path: str) -> dict[str, Launch]:
    """Launches worth measuring, by name: the table's own, its tiles by other kernels and in larger groups, TILES."""
    known = nearest_entry(architecture, path).launch
    launches = [known, *(_other_kernels(known, architecture) if path == "single" else ())]
    for m, n, k, warps, stages in TILES:
        if path != "split" or m * n <= 128 * 128:  # it keeps two accumulators in registers
            launches.append(Launch(m, n, k, warps, stages, architecture >= 90, halves=True, flush=known.flush))
    return {describe(launch): launch for launch in launches}


def _other_kernels(known: Launch, architecture: int) -> list[Launch]:
    """The tile of `known` by each of KERNELS that is there, in each of GROUPS; some have memory for a stage more."""
    return [
        replace(known, kernel=kernel, group=group, stages=known.stages + (kernel in A_STAGE_MORE), halves=True)
        for kernel in KERNELS
        for group in GROUPS
        if kernel != "gluon" or architecture // 10 in (9, 10)
    ]


def describe(launch: Launch) -> str:
    """The launch in a few words."""
    tile = f"{launch.block_m}×{launch.block_n}×{launch.block_k}"
    loads = "descriptors" if launch.descriptors else "pointers"
    halves = ", halves" if launch.halves else ""
    kernel = "" if launch.kernel == "tile" else f", {launch.kernel}"
    group = "" if launch.group == Launch.group else f", groups of {launch.group}"
    return f"{tile}, {launch.warps} warps, {launch.stages} stages, {loads}{halves}{kernel}{group}"


def measure(
    case: Case, launches: dict[str, Launch], timer: Timer, end: float = inf
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of torch and of every candidate that computes the case rightly, and why the others do not.

    After `end`, of the monotonic clock, no further candidate is tried; torch and the first, the launch in use, are.
    """
    try:
        product = product_of(case)
    except torch.OutOfMemoryError as error:
        return {}, {"all": str(error)}
    calls: Calls = {}
    skipped = {}
    named: dict[str, Launch | None] = {TORCH: None, **launches}
    for place, (name, launch) in enumerate(named.items()):
        late = place > 1 and time.monotonic() > end
        reason = "no time was left" if late else _fault(product, launch, case)
        if reason:
            skipped[name] = reason
        else:
            calls[name] = partial(product.run, launch)
    return timer(calls, case.device), skipped


def _fault(product: Product, launch: Launch | None, case: Case) -> str:
    """What is wrong with a candidate, if anything is."""
    tolerance = TOLERANCE[case.path]
    if launch and launch.kernel == "gluon" and (fault := fault_apart(replace(launch, group=8), case.device)):
        return fault
    try:
        error = product.error(launch)
    except Exception as problem:  # Triton, ptxas, torch and the driver raise many kinds, and each rules one out
        return f"{type(problem).__name__}: {problem}"
    return "" if error <= tolerance else f"off by {error:.1e} of the norm where {tolerance:.0e} is granted"


def choose(launches: dict[str, Launch], seconds: dict[int, dict[str, float]], known: Entry) -> Entry:
    """The launch with the least mean over the wide widths, and where torch beats it; the `known` where none ran."""
    ran = [width for width in seconds if seconds[width].keys() & launches.keys()]
    wide = [width for width in ran if width >= WIDE] or ran
    everywhere = [name for name in launches if wide and all(name in seconds[width] for width in wide)]
    means = {name: geometric_mean(seconds[width][name] for width in wide) for name in everywhere}
    best = min(means, key=lambda name: means[name], default=describe(known.launch))
    faster = [width for width, times in seconds.items() if times.get(TORCH, inf) < times.get(best, inf)]
    unmeasured = [width for width in known.torch_widths if width not in seconds]
    return Entry(launches.get(best, known.launch), tuple(sorted(faster + unmeasured)))


def cuda_seconds(calls: Calls, device: torch.device) -> dict[str, float]:
    """The median time of each call by CUDA events, in rounds of one call each, so that all see the same clocks.

    Nothing waits between the calls: as in a pass over the blocks, a launch is hidden where the GPU has work left.
    """
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    with torch.cuda.device(device):
        for _ in range(ROUNDS):
            for name, call in calls.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                events[name].append((start, end))
        torch.cuda.synchronize()
    return {name: median(start.elapsed_time(end) for start, end in pairs) / 1e3 for name, pairs in events.items()}


def write_table(measured: dict[str, Any], path: Path = TABLE) -> None:
    """Replace what was measured of an architecture in the table at `path`, or make one of the table in use.

    Other architectures stay as they are, and paths that were not measured as they were looked up.
    Raises OSError where the file cannot be replaced.
    """
    table = json.loads((path if path.exists() else TABLE).read_text(encoding="utf-8"))
    architecture, paths = measured["capability"], measured["paths"]
    kept = {name: asdict(nearest_entry(architecture, name)) for name in PATHS} | table.get(str(architecture), {})
    found = {name: {key: paths[name][key] for key in ("launch", "torch_widths")} for name in paths}
    table[str(architecture)] = kept | found
    beside = path.with_name(f".{secrets.token_hex(4)}-{path.name}")  # of its own: another process may be tuning
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(_layout(table))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        advice = "install linscore where you may write, for example with pip install --user or in a virtual environment"
        raise OSError(f"{path} cannot be replaced ({error.strerror}): {advice}") from error
    finally:
        beside.unlink(missing_ok=True)
    launch_table.cache_clear()


def _layout(table: dict[str, dict[str, Any]]) -> str:
    """The table as JSON, one line for each path."""
    rows = []
    for row in sorted(table, key=int):
        lines = [f'    "{path}": {json.dumps(entry)}' for path, entry in table[row].items()]
        rows.append(f'  "{row}": {{\n' + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(rows) + "\n}\n"
