"""The Gram products in Gluon, for sm_100: one warp loads, one multiplies, and the others write the tile before.

As `gluon_kernel`, but sums lie in tensor memory, where there is room for two tiles: while one is multiplied the other
is read, piece by piece, and written. Each has a barrier that says that it is whole, and another that it was read.
"""

# mypy: allow-untyped-defs, disable-error-code="annotation-unchecked"
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import blackwell
from triton.experimental.gluon.language.nvidia.blackwell import (
    TensorMemoryLayout,
    allocate_tensor_memory,
    tcgen05_commit,
    tcgen05_mma,
)
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from .gluon_kernel import LOADING_REGISTERS, _add_tile, _load, _next, _place, _store_tile

TILES = gl.constexpr(2)  # of sums, in 512 columns of tensor memory
STORED = gl.constexpr(32)  # columns of a piece that is stored


if hasattr(blackwell, "get_tmem_reg_layout"):  # Triton 3.6 and 3.7

    @gluon.jit
    def _read(part):
        """Part of the sums, two neighbours of a row in each thread."""
        layout: gl.constexpr = blackwell.get_tmem_reg_layout(
            gl.float32, part.shape, part.layout, gl.num_warps(), "16x256b"
        )
        return part.load(layout)

else:

    @gluon.jit
    def _read(part):
        """The same in Triton 3.9."""
        return part.load(part.get_reg_layout(instr_variant="16x256b"))


@gluon.jit
def _multiply(buffers, barriers, tiles, steps, split_steps, tile_count, works, STAGES: gl.constexpr):
    """What the multiplying warp does: it hands out products, and the tensor core says when they are done."""
    left_buffers, right_buffers = buffers
    full, empty, whole, read = barriers
    at, phase = gl.to_tensor(0), gl.to_tensor(0)
    turn, turn_phase = gl.to_tensor(0), gl.to_tensor(1)
    for work in range(gl.program_id(0), works, gl.num_programs(0)):
        first = work // tile_count * split_steps
        mbarrier.wait(read.index(turn), turn_phase)
        for step in range(first, gl.minimum(first + split_steps, steps)):
            mbarrier.wait(full.index(at), phase)
            a, b = left_buffers.index(at).permute((1, 0)), right_buffers.index(at)
            tcgen05_mma(a, b, tiles.index(turn), use_acc=step > first, mbarriers=[empty.index(at)])
            at, phase = _next(at, phase, STAGES)
        tcgen05_commit(whole.index(turn))
        turn, turn_phase = _next(turn, turn_phase, TILES)


@gluon.jit
def _write(
    barriers, tiles, tiles_ptr, out_ptr, scale_ptr, sign, out_stride, d, width_delta, tile_count, works,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    """What the other warps do: tiles to where they go."""
    _, _, whole, read = barriers
    WIDE: gl.constexpr = PIECE if PIECE else STORED
    turn, turn_phase = gl.to_tensor(0), gl.to_tensor(0)
    for work in range(gl.program_id(0), works, gl.num_programs(0)):
        row, right_column, of_delta = _place(tiles_ptr, work % tile_count, d, BLOCK_M, BLOCK_N)
        column, columns_left = right_column + of_delta * d, gl.where(of_delta == 1, width_delta, d) - right_column
        out = out_ptr + (work // tile_count).to(gl.int64) * d * (d + width_delta)
        mbarrier.wait(whole.index(turn), turn_phase)
        for i in gl.static_range(BLOCK_N // WIDE):
            piece = _read(tiles.index(turn).slice(i * WIDE, WIDE))
            if PIECE == 0:
                _store_tile(piece, out, row, column + i * WIDE, columns_left - i * WIDE, d, d + width_delta)
            else:
                _add_tile(
                    piece, out_ptr, scale_ptr, row, column + i * WIDE, columns_left - i * WIDE, d, out_stride, sign
                )
        mbarrier.arrive(read.index(turn))
        turn, turn_phase = _next(turn, turn_phase, TILES)


@gluon.jit(do_not_specialize=["steps", "split_steps", "tiles", "works", "sign"])
def _gluon_blackwell_gram_kernel(
    left, right, tiles_ptr, out_ptr, scale_ptr, sign, out_stride, rows, d, width_delta, steps, split_steps, tiles,
    works,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    """Arguments are those of `_gluon_gram_kernel`."""
    left_buffers = gl.allocate_shared_memory(left.dtype, [STAGES, BLOCK_K, BLOCK_M], left.layout)
    right_buffers = gl.allocate_shared_memory(right.dtype, [STAGES, BLOCK_K, BLOCK_N], right.layout)
    sums = allocate_tensor_memory(
        gl.float32, [TILES, BLOCK_M, BLOCK_N], TensorMemoryLayout((BLOCK_M, BLOCK_N), col_stride=1)
    )
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    whole = gl.allocate_shared_memory(gl.int64, [TILES, 1], mbarrier.MBarrierLayout())
    read = gl.allocate_shared_memory(gl.int64, [TILES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    for i in gl.static_range(TILES):
        mbarrier.init(whole.index(i), count=1)
        mbarrier.init(read.index(i), count=1)
    buffers, barriers = (left_buffers, right_buffers), (full, empty, whole, read)
    gl.warp_specialize(
        [
            (
                _write,
                (
                    barriers, sums, tiles_ptr, out_ptr, scale_ptr, sign, out_stride, d, width_delta, tiles, works,
                    BLOCK_M, BLOCK_N, PIECE,
                ),
            ),
            (
                _load,
                (
                    left, right, buffers, (full, empty), tiles_ptr, rows, d, steps, split_steps, tiles, works,
                    BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
                ),
            ),
            (_multiply, (buffers, barriers, sums, steps, split_steps, tiles, works, STAGES)),
        ],
        [1, 1],
        [LOADING_REGISTERS, LOADING_REGISTERS],
    )  # fmt: skip
