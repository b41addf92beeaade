"""What each kernel is expected to take on an H200, from counted bytes, FLOP and launches: nothing here is measured.

    python benchmarks/expected.py        # the tables of docs/performance.md

Counts come from the code that launches (tiles, splits, chunks, launch table), rates are assumptions, named below. A run
on a GPU sets its times beside these, so that the first measurement says which part of the model is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks/suite"), str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
from linscore_kernels.launching import pieces  # noqa: E402
from linscore_kernels.layer_loss.kernel import backward_walks, forward_walks  # noqa: E402
from linscore_kernels.second_moments import held_rows, totals_kernel, triton  # noqa: E402
from linscore_kernels.second_moments.tile_list import splits_for, tile_list  # noqa: E402
from linscore_kernels.second_moments.token_stats_kernel import tile_shape  # noqa: E402
from linscore_kernels.second_moments.triton import is_split, operand_shape  # noqa: E402
from linscore_kernels.sums import FIGURES  # noqa: E402
from linscore_kernels.tuning.parameters import launch_for  # noqa: E402
from results import seconds as written  # noqa: E402
from shapes import LLAMA_1B, LLAMA_8B, LlamaShape  # noqa: E402

CAPABILITY = 90
FLOAT32, FLOAT64 = 4, 8  # bytes


@dataclass(frozen=True)
class Machine:
    """What is assumed of the GPU; rates that the benchmark measures first, and shares of them by kernel."""

    matrix: float = 790e12  # FLOP/s of a plain bfloat16 product of random values
    copy: float = 4.3e12  # bytes/s, read and written
    double: float = 55e12  # FLOP/s of a float64 product
    programs: int = 132  # multiprocessors, each with one tile at a time
    mainloop: float = 0.80  # of the matrix rate, within a tile's loop: 640 of 798 TFLOP/s, as a review counted
    split_mainloop: float = 0.65  # the same of tiles of 128 × 128, whose sums are flushed
    norms: float = 0.68  # of the matrix rate, in the product of residual_norms with its epilogue
    reading: float = 0.70  # of the copy rate, where a pass over the tokens has reductions to do
    copying: float = 0.90  # where it has none
    launch: float = 3e-6  # seconds from one kernel's end to the next one's beginning


H200 = Machine()


class Part(NamedTuple):
    """One kernel's work in an update: what is counted, and the seconds that follow."""

    name: str
    flop: float
    moved: float  # bytes
    launches: int
    seconds: float


def gram_parts(rows: int, d: int, *, split: bool, machine: Machine = H200) -> list[Part]:
    """The products of one chunk of `rows` (padded) tokens, and their merging."""
    launch = launch_for(CAPABILITY, d, "split" if split else "single")
    tiles, steps = len(tile_list(d, launch.block_m, launch.block_n, torch.device("cpu"))), rows // launch.block_k
    split_steps = pieces(steps, min(splits_for(rows, tiles, machine.programs), steps))
    splits, passes = pieces(steps, split_steps), 3 if split else 1
    waves = pieces(tiles * splits, machine.programs)
    entries = launch.block_m * launch.block_n
    rate = machine.matrix * (machine.split_mainloop if split else machine.mainloop) / machine.programs
    flop = 2.0 * entries * passes * split_steps * launch.block_k  # of one program
    wanted = 1.5 * d**2  # entries on and right of the diagonal
    adds = splits == 1  # each program its tile to the float64 sums
    tile = entries * (2 * FLOAT64 if adds else FLOAT32) * machine.programs / machine.copy  # written when it is done
    products = Part(
        "gram",
        flop * tiles * splits,
        2 * FLOAT64 * wanted if adds else FLOAT32 * entries * tiles * splits,
        1,
        waves * (flop / rate + tile) + machine.launch,
    )
    merged = _moving("merge", wanted * (FLOAT32 * splits + 2 * FLOAT64), machine, 1.0)
    return [products] if adds else [products, merged]


def token_stats_parts(rows: int, d: int, dtype: torch.dtype, *, split: bool, machine: Machine = H200) -> list[Part]:
    """x and y read; operands, figures, statuses and the programs' column sums written, and the latter added up."""
    (parts, padded, width), stored = operand_shape(rows, d, dtype, "exact" if split else "fast")
    shape, _ = tile_shape(d, split, CAPABILITY)
    programs = pieces(padded, shape["BLOCK_ROWS"] * shape["ITERATIONS"])
    sums = FLOAT32 * programs * 2.0 * width
    figures = rows * (len(FIGURES) * FLOAT32 + 1.0)
    moved = 2.0 * rows * d * dtype.itemsize + parts * padded * width * stored.itemsize + sums + figures
    again = 2 if rows > totals_kernel.ROWS else 1  # the sums of several programs are added up by torch
    return [
        _moving("token_stats", moved, machine, machine.reading),
        _moving("totals", figures + sums, machine, machine.reading, again),
    ]


def update_parts(n: int, d: int, dtype: torch.dtype, heavy: int = 0, machine: Machine = H200) -> Iterator[Part]:
    """All that `Moments.update` asks of the device for `n` rows, `heavy` of them, that are held and settled."""
    yield from accumulate_parts(n, d, dtype, machine)
    yield Part("added to the fold's", 0.0, 0.0, 1, machine.launch)
    room = min(n, max(held_rows.LEAST, n // held_rows.SHARE))
    yield _moving("heavy rows, held", room * 2 * d * (FLOAT64 + dtype.itemsize), machine, machine.reading)
    if heavy:
        flop, moved, launches = 4.0 * d**2 * heavy, 4.0 * FLOAT64 * d**2, 4
        least = max(flop / machine.double, moved / machine.copy)
        yield Part("heavy rows, added", flop, moved, launches, least + launches * machine.launch)


def accumulate_parts(n: int, d: int, dtype: torch.dtype, machine: Machine = H200) -> Iterator[Part]:
    """All that `accumulate` asks of the device for `n` light rows, chunk by chunk."""
    split = is_split(dtype, "fast")
    chunk = triton._chunk(d, split)
    for start in range(0, n, chunk):
        rows = min(chunk, n - start)
        yield from token_stats_parts(rows, d, dtype, split=split, machine=machine)
        yield from gram_parts(operand_shape(rows, d, dtype, "fast")[0][1], d, split=split, machine=machine)


def _moving(name: str, moved: float, machine: Machine, share: float, launches: int = 1) -> Part:
    return Part(name, 0.0, moved, launches, moved / (share * machine.copy) + launches * machine.launch)


def kernel_seconds(kernel: str, d: int, tokens: int, dtype: torch.dtype, machine: Machine = H200) -> float | None:
    """Of a case of `linscore.machine.kernel_cases`; None where nothing was expected."""
    split = is_split(dtype, "exact" if kernel.endswith("exact") else "fast")
    rows = operand_shape(tokens, d, dtype, "exact" if split else "fast")[0][1]
    if kernel in ("gram", "gram, exact"):
        return sum(part.seconds for part in gram_parts(rows, d, split=split, machine=machine))
    if kernel == "token_stats":
        return sum(part.seconds for part in token_stats_parts(tokens, d, dtype, split=split, machine=machine))
    if kernel == "accumulate":
        return sum(part.seconds for part in accumulate_parts(tokens, d, dtype, machine))
    if kernel == "residual_norms" and not split:
        return 2.0 * d**2 * tokens / (machine.norms * machine.matrix)
    return None


def update_seconds(n: int, d: int, dtype: torch.dtype, heavy: int = 0, machine: Machine = H200) -> float:
    """Of one block and one batch."""
    return sum(part.seconds for part in update_parts(n, d, dtype, heavy, machine))


def scoring_seconds(shape: LlamaShape, dtype: torch.dtype, heavy: int = 0, machine: Machine = H200) -> float:
    """What scoring adds to the forward pass: an update of each block, and of the last state, in each batch.

    Of all tokens `heavy` are sinks.
    """
    batches = shape.sequences // shape.batch
    update = update_seconds(shape.tokens // batches, shape.width, dtype, heavy // batches, machine)
    return (shape.blocks + 1) * batches * update


def forward_flop(shape: LlamaShape) -> float:
    """Of a plain forward pass over all tokens, without embedding and head; attention looks at half of what is there."""
    d, kv = shape.width, shape.width * shape.kv_heads // shape.heads
    weights = d * (2 * d + 2 * kv) + 3 * d * shape.inner
    return shape.tokens * shape.blocks * (2.0 * weights + 2.0 * shape.sequence * d)


def layer_loss_passes(states: int) -> tuple[int, int]:
    """Over a state: read in forward; read in backward, or written there."""
    every = range(states)
    forward = sum(len(every[walk]) for walk in forward_walks(states))
    return forward, sum(len(every[read]) + len(every[written]) for read, written in backward_walks(states))


def layer_loss_seconds(states: int, moved: float, machine: Machine = H200) -> float:
    """Of regularizers over `states` of `moved` bytes each, and of their gradients."""
    forward, backward = layer_loss_passes(states)
    parts = (
        _moving("distances", forward * moved, machine, machine.reading, len(forward_walks(states)) + 1),
        _moving("gradients", backward * moved, machine, machine.copying, len(backward_walks(states))),
    )
    return sum(part.seconds for part in parts)


SHAPES = ((768, 16_384), (768, 65_536), (2048, 65_536), (4096, 16_384), (4096, 65_536), (8192, 65_536))
DTYPE = torch.bfloat16


def tables(machine: Machine = H200) -> str:
    """The tables of docs/performance.md."""
    lines = ["| d, tokens | kernel | GFLOP | GB moved | launches | floor | expected | share |", "|" + "---|" * 8]
    for d, tokens in SHAPES:
        gram, whole = (
            gram_parts(tokens, d, split=False, machine=machine),
            list(update_parts(tokens, d, DTYPE, machine=machine)),
        )
        for name, parts in (("gram", gram), ("update", whole)):
            lines.append(_row(f"{d}, {tokens:,}", name, parts, 3.0 * d**2 * tokens / machine.matrix))
    lines += ["", "| d, tokens | kernel | expected |", "|" + "---|" * 3]
    for d in (768, 2048, 4096, 8192):
        for kernel in ("token_stats", "residual_norms", "gram, exact"):
            lines.append(f"| {d}, 65,536 | {kernel} | {written(kernel_seconds(kernel, d, 65_536, DTYPE, machine))} |")
    loss = layer_loss_seconds(9, 2.0 * 16_384 * 4096, machine)
    lines.append(f"| 4096, 16,384 | layer loss of 9 states, and its gradient | {written(loss)} |")
    lines += ["", "| 65,536 tokens | forward at the matrix rate | scoring adds | with 32 sinks |", "|" + "---|" * 4]
    for shape in (LLAMA_8B, LLAMA_1B):
        added = (scoring_seconds(shape, DTYPE, heavy, machine) for heavy in (0, shape.sequences))
        forward = forward_flop(shape) / machine.matrix
        lines.append(f"| {shape.name} | {' | '.join(map(written, (forward, *added)))} |")
    return "\n".join(lines)


def _row(shape: str, name: str, parts: list[Part], floor: float) -> str:
    flop, moved, launches, total = (sum(part[i] for part in parts) for i in range(1, 5))
    figures = f"{flop / 1e9:,.0f} | {moved / 1e9:.3g} | {launches} | {written(floor)} | {written(total)}"
    return f"| {shape} | {name} | {figures} | {floor / total:.2f} |"


if __name__ == "__main__":
    print(tables())
