"""How fast this machine is at best, and how near the kernels come to it (`linscore bench`; docs/performance.md).

    floor = max(FLOP / matrix rate, bytes / copy rate)        share = floor / measured time

Both rates are measured, with the fastest plain product and copy of the same machine. Times are taken in turns, ours and
each peer, so that a machine whose speed drifts drifts for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from linscore_kernels.pilot import PILOT_ROWS
from rich.table import Table
from rich.text import Text

from linscore.errors import LinscoreError, above_zero, one_of
from linscore.machine.device import choose_device
from linscore.machine.extras import need
from linscore.machine.kernel_cases import CASES, Case
from linscore.machine.timing import floor, interleaved, rates
from linscore.options.kernels import TuneOptions


@dataclass(frozen=True)
class KernelRow:
    """One line of `kernel_table`; times in seconds."""

    kernel: str
    seconds: float
    floor: float
    best_peer: str
    peer_seconds: float
    ratio: float  # of the best peer to ours: above 1 it is slower

    @property
    def share(self) -> float:
        """Of the physical floor, 1 being the best that can be."""
        return self.floor / self.seconds


def kernel_table(d: int, tokens: int, dtype: torch.dtype, device: torch.device | str) -> list[KernelRow]:
    """Every kernel on random states `[tokens, d]` of `dtype`, beside its floor and the fastest plain torch."""
    device = torch.device(device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return [_kernel_row(build(d, tokens, dtype, device), device) for build in CASES]


def _kernel_row(case: Case, device: torch.device) -> KernelRow:
    timing = interleaved(case.ours, case.peers)
    best = min(timing.peers, key=timing.peer_median)
    least = floor(case.flop, case.moved, rates(device, case.rate_dtype))
    return KernelRow(case.kernel, timing.median, least, best, timing.peer_median(best), timing.ratio(best))


def rendered(rows: list[KernelRow], title: str) -> Table:
    """The rows for a terminal."""
    table = Table(title=title)
    for name in ("kernel", "ms", "floor ms", "of floor", "best peer", "its ms", "ratio"):
        table.add_column(name, justify="left" if name in ("kernel", "best peer") else "right")
    for row in rows:
        ours, least, theirs = (f"{1e3 * seconds:.3f}" for seconds in (row.seconds, row.floor, row.peer_seconds))
        table.add_row(row.kernel, ours, least, f"{row.share:.0%}", Text(row.best_peer), theirs, f"{row.ratio:.2f}×")
    return table


DEFAULTS = {"cuda": (4096, 65_536, "bfloat16"), "cpu": (768, 16_384, "float32")}  # width, tokens, dtype

DTYPES = ("float32", "bfloat16", "float16")


def run_bench(
    width: int | None = None, tokens: int | None = None, dtype: str = "auto", device: str = "auto"
) -> tuple[str, list[KernelRow]]:
    """What was timed, random states `[tokens, width]`, and the rows. Raises LinscoreError for what cannot be."""
    where = choose_device(device)
    usual_width, usual_tokens, usual_dtype = DEFAULTS[where.type]
    width, tokens = width or usual_width, tokens or usual_tokens
    dtype = usual_dtype if dtype == "auto" else dtype
    if width < 32 or tokens < 2 * PILOT_ROWS:
        raise LinscoreError(f"`width={width}` and `tokens={tokens}`: give at least 32 and {2 * PILOT_ROWS}")
    one_of("dtype", dtype, DTYPES)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rows = kernel_table(width, tokens, getattr(torch, dtype), where)
    return f"{name}: {tokens:,} tokens of width {width}, {dtype}", rows


def run_tune(device: str = "auto", options: TuneOptions | None = None, progress: Callable[[str], None] = print) -> Path:
    """Measure launch parameters on a GPU and rewrite their table after each width; its path comes back.

    Raises LinscoreError without a GPU or Triton and for what cannot be measured, OSError where the table cannot be
    written.
    """
    options = options or TuneOptions()
    where = choose_device(device)
    if where.type != "cuda":
        raise LinscoreError(f"`tune` measures GPU kernels and the device is {where}: run it where the GPU is")
    need("triton", "`tune`", "triton")
    from linscore_kernels.tuning.parameters import LADDER, PATHS, TABLE
    from linscore_kernels.tuning.tune import tune, write_table

    widths = _listed("widths", options.widths, [str(width) for width in LADDER])
    paths = _listed("paths", options.paths, PATHS)
    file, patience = Path(options.file or TABLE), inf
    if options.seconds is not None:
        above_zero("seconds", options.seconds)
        patience = options.seconds

    def write(found: dict[str, Any]) -> None:
        write_table(found, file)

    tune(where, [int(width) for width in widths], paths, patience=patience, progress=progress, measured=write)
    return file


def _listed(what: str, given: str | None, known: Sequence[str]) -> Sequence[str]:
    """The words between the commas of the argument `what`, all of them `known`; all that are where none is given."""
    words = known if given is None else [word.strip() for word in given.split(",")]
    for word in words:
        one_of(what, word, known)
    return words
