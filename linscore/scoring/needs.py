"""What a score of a decoder takes, from its configuration alone: bytes, and FLOP.

Weights and moments are counted; what a batch and the solve hold at their peak is what the same code holds on paper, or
a formula of the kernels that run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

import torch
from linscore_kernels.second_moments import eager
from linscore_kernels.second_moments.eager_products import products
from linscore_kernels.second_moments.eager_workspace import MOST, Workspace

from linscore.decoder.find import Decoder
from linscore.decoder.mlp_output import likely_inputs
from linscore.models.on_paper import Sizes, loss_on_paper, pass_on_paper, sizes_on_paper
from linscore.options.score import ScoreOptions
from linscore.scoring.first_loss import TOKENS
from linscore.spans import Span
from linscore.statistics.cell import Cell

__all__ = ["Needs", "Workload", "block_moments", "needs_of"]

# Matrices d × d float64 that the figures of a block take at once by the number of folds, 3 being more than 2, without
# heavy rows and with them.
SOLVE = {1: (10, 16), 2: (15, 20), 3: (17, 26)}
EIGEN = 5  # d³ FLOP of eigenvalues; a solve is d³/3 and two triangular ones
SLACK = 1.5  # times what a pass holds on a CPU: malloc keeps what is freed, in pieces (decisions: A plan on paper)
LIBRARIES = 48 << 20  # bytes that BLAS and oneDNN keep there once they have run (likewise)
PARTIAL_TILES = 132 * 128 * 128  # sums that the programs of a GPU hold beside those of all tokens, where tiles are few
LEAST_HELD, HELD_SHARE = 64, 64  # heavy rows that are held of an update (linscore_kernels.second_moments.held_rows)
CHUNK_BYTES, LEAST_CHUNK = 1 << 30, 8192  # of operands on a GPU (linscore_kernels.second_moments.triton)


@dataclass(frozen=True)
class Workload:
    """How a decoder is scored."""

    sequences: int  # in a batch
    length: int
    options: ScoreOptions
    backend: str

    @property
    def tokens(self) -> int:
        """Of a batch."""
        return self.sequences * self.length


@dataclass(frozen=True)
class Needs:
    """What a score takes. All bytes, but for counts and FLOP; a bound is for decoders whose every block meets sinks."""

    sizes: Sizes
    depth: int
    width: int
    state: int  # of one token
    moments: int  # of all that is scored, without heavy rows; at most as much again with them
    block_moments: int  # the most that is collected while one block runs, likewise
    kept: int  # what the libraries and the update of moments keep from batch to batch
    batch: int  # what a batch holds at its peak beside
    solve: int  # what the figures of a block hold
    solve_bound: int
    loss: int  # what the loss of the first rows holds
    flops: float  # of one token through all blocks, with the products of its moments
    solve_flops: float

    @property
    def work(self) -> int:
        """The most that is held at once beside weights and moments."""
        return self.kept + max(self.batch, self.solve, self.loss)

    @property
    def work_bound(self) -> int:
        """The same."""
        return max(self.work, self.kept + self.solve_bound)


def needs_of(decoder: Decoder, workload: Workload) -> Needs:
    """What a score of a decoder takes, which may be without memory for its tensors.

    Raises:
        LinscoreError: where it has nothing that a map could be fused into, and that is asked for.
    """
    width, options, pairs = decoder.width, workload.options, _pairs(decoder, workload.options)
    dtype = next(decoder.blocks.parameters()).dtype
    by_block = block_moments(decoder, options)
    passed = pass_on_paper(decoder, workload.sequences, workload.length)
    kept, batch = _kept_and_batch(workload, width, dtype, passed.bytes)
    solve, solve_bound = (8 * width * width * matrices for matrices in SOLVE[min(options.folds, 3)])
    return Needs(
        sizes=sizes_on_paper(decoder),
        depth=len(decoder.blocks),
        width=width,
        state=width * dtype.itemsize,
        moments=sum(by_block),
        block_moments=max(by_block),
        kept=kept,
        batch=batch + _held(decoder, workload, dtype),
        solve=solve,
        solve_bound=solve_bound,
        loss=loss_on_paper(decoder, min(TOKENS, workload.tokens)),
        flops=passed.flops / workload.tokens + sum(d * d + 2 * d * e for _, d, e in pairs),
        solve_flops=sum((EIGEN + 3 * (1 + options.folds)) * d**3 for _, d, _ in pairs),
    )


def block_moments(decoder: Decoder, options: ScoreOptions) -> list[int]:
    """Bytes of the moments that are collected when each block has run, all folds, without heavy rows."""
    found, pairs = [0] * len(decoder.blocks), _pairs(decoder, options)
    for index, d, e in pairs:
        found[index] += options.folds * _cell_bytes(d, e)
    for index in {index for index, _, _ in pairs} if options.sensitivity is not None else ():
        found[index] += (1 + options.sub_blocks) * _cell_bytes(decoder.width, 1)  # of gradients, without folds
    return found


def _cell_bytes(d: int, e: int) -> int:
    cell = Cell.zeros(d, e, "meta")
    return sum(int(getattr(cell, one.name).nbytes) for one in fields(Cell))


def _pairs(decoder: Decoder, options: ScoreOptions) -> list[tuple[int, int, int]]:
    """(block after which it is taken, width of x, width of δ) of every pair of states, as `Collector` has them."""
    d, depth = decoder.width, len(decoder.blocks)
    spans = {span for span in options.spans if len(span.blocks) > 1}
    indices = set(range(depth) if options.blocks is None else options.blocks) | {
        span.first for span in set(options.spans) - spans
    }
    parts = 3 if options.sub_blocks else 1
    found = [(index, d, d) for index in sorted(indices) for _ in range(parts + (index + 1 not in indices))]
    found += [(span.last, d, d) for span in [*spans, *options.fuse_output]]
    if options.sensitivity is not None:  # what each unit adds, by itself
        units = [index for index in sorted(indices) for _ in range(parts)] + [span.last for span in spans]
        found += [(index, d, 1) for index in units]
    if options.fuse:
        inputs = likely_inputs(decoder)
        found += [(span.last, inputs, d) for span in options.fuse]
    return found


def _kept_and_batch(workload: Workload, d: int, dtype: torch.dtype, passed: int) -> tuple[int, int]:
    """Bytes kept from batch to batch, and those of a batch: in a block, of `passed`, or in the update after it."""
    precision, around = workload.options.precision, 2 * workload.tokens * d * dtype.itemsize
    if workload.backend == "triton":
        split = precision == "exact" or dtype is torch.float32
        return 0, max(passed, around + gpu_workspace(workload.tokens, d, d, split=split))
    update = cpu_workspace(workload.tokens, d, d, dtype, precision)
    if update > MOST:
        return LIBRARIES, int(SLACK * max(passed, around + update))
    return LIBRARIES + update, int(SLACK * passed)


def cpu_workspace(rows: int, d: int, e: int, dtype: torch.dtype, precision: str) -> int:
    """Bytes that the eager backend works in."""
    (_, chunk, _), kind = eager.operand_shape(min(eager.CHUNK, rows), d, dtype, precision)
    work = Workspace(torch.empty(0, dtype=torch.uint8, device="meta"))
    work.take(kind, 2, chunk, d)
    second = torch.empty(d, d + e, dtype=torch.float64, device="meta")
    products(second, torch.empty(1, dtype=kind).expand(2, chunk, d), work)
    return work.wanted


def gpu_workspace(rows: int, d: int, e: int, *, split: bool) -> int:
    """Bytes of an update's operands, in tiles of 16 columns and 128 rows, and of its partial sums on a GPU."""
    bytes_a_row = (8 if split else 4) * -(-d // 16) * 16
    chunk = max(CHUNK_BYTES // (d * (8 if split else 4)) // LEAST_CHUNK, 1) * LEAST_CHUNK
    return min(-(-rows // 128) * 128, chunk) * bytes_a_row + 4 * max(d * (d + e), PARTIAL_TILES)


def _held(decoder: Decoder, workload: Workload, dtype: torch.dtype) -> int:
    """Bytes that wait while a batch runs: states of spans that are open, sub-blocks, and heavy rows on a GPU."""
    options, depth = workload.options, len(decoder.blocks)
    one = workload.tokens * dtype.itemsize  # feature of all tokens
    spans = {span for span in (*options.spans, *options.fuse, *options.fuse_output) if span.first < span.last}
    held = one * decoder.width * (_open(spans, depth) + _open(options.fuse_output, depth) + 2 * options.sub_blocks)
    if options.fuse:
        held += one * likely_inputs(decoder) * _open(options.fuse, depth)
    if options.fuse or options.fuse_output:
        held += 2 * workload.tokens * decoder.width * torch.float32.itemsize  # δ, as it is formed
    if workload.backend == "triton":
        rows = max(LEAST_HELD, workload.tokens // HELD_SHARE)
        held += sum(16 * rows * d for _, d, _ in _pairs(decoder, options))
    return held


def _open(spans: Collection[Span], depth: int) -> int:
    """The most spans, of those that begin with the same block one, that are under way at once."""
    return max(len({span.first for span in spans if index in span.blocks}) for index in range(depth))
