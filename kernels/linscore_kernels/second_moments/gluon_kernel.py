"""The Gram products in Gluon, for sm_90: one warp loads, two groups of four multiply, as many programs as run at once.

What `gram_kernel` does with single operands, tile by tile and token by token in the same order. A ring of STAGES pairs
of blocks lies in shared memory; of each pair one barrier says that it is full, which TMA signals, and another that it
has been multiplied, so that the loads of a tile go on while the one before it is written.
"""

# mypy: allow-untyped-defs, disable-error-code="annotation-unchecked"
# (a kernel's arguments are typed by what it is launched with)

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

# The name in Triton 3.9; that of 3.6 and 3.7 raises there.
_load_block = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
LOADING_REGISTERS = gl.constexpr(
    24
)  # of a thread of the loading warp, the least that there are; the others share what is left


@gluon.jit
def _place(tiles_ptr, tile, d, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr):
    """Where a tile of the list lies: column of the left operand, of the right one, and whether that is δ."""
    i = gl.load(tiles_ptr + 2 * tile)
    j = gl.load(tiles_ptr + 2 * tile + 1)
    half_tiles = gl.cdiv(d, BLOCK_N)
    of_delta = (j >= half_tiles).to(gl.int32)
    return i * BLOCK_M, (j - of_delta * half_tiles) * BLOCK_N, of_delta


@gluon.jit
def _next(at, phase, STAGES: gl.constexpr):
    """The next pair of the ring, and the phase of its barriers, which turns with every round."""
    last = at == STAGES - 1
    return gl.where(last, 0, at + 1), gl.where(last, phase ^ 1, phase)


@gluon.jit
def _load(
    left, right, buffers, barriers, tiles_ptr, rows, d, steps, split_steps, tiles, works,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """What the loading warp does: blocks of both operands, for all tiles of this program."""
    left_buffers, right_buffers = buffers
    full, empty = barriers
    at, phase = gl.to_tensor(0), gl.to_tensor(1)  # at first every pair is empty, as if it had been multiplied
    for work in range(gl.program_id(0), works, gl.num_programs(0)):
        left_column, right_column, of_delta = _place(tiles_ptr, work % tiles, d, BLOCK_M, BLOCK_N)
        first = work // tiles * split_steps
        for step in range(first, gl.minimum(first + split_steps, steps)):
            row = step * BLOCK_K
            mbarrier.wait(empty.index(at), phase)
            mbarrier.expect(full.index(at), left.block_type.nbytes + right.block_type.nbytes)
            _load_block(left, [row, left_column], full.index(at), left_buffers.index(at))
            _load_block(right, [row + of_delta * rows, right_column], full.index(at), right_buffers.index(at))
            at, phase = _next(at, phase, STAGES)


@gluon.jit
def _multiply(
    buffers, barriers, tiles_ptr, out_ptr, scale_ptr, sign, out_stride, d, width_delta, steps, split_steps, tiles,
    works,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    """What the others do: the products of each tile, one group in flight, and where they go."""
    left_buffers, right_buffers = buffers
    full, empty = barriers
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BLOCK_N, 16])
    sums = gl.zeros((BLOCK_M, BLOCK_N), gl.float32, layout)
    at, phase = gl.to_tensor(0), gl.to_tensor(0)
    for work in range(gl.program_id(0), works, gl.num_programs(0)):
        share = work // tiles
        first = share * split_steps
        before = at
        for step in range(first, gl.minimum(first + split_steps, steps)):
            mbarrier.wait(full.index(at), phase)
            a, b = left_buffers.index(at).permute((1, 0)), right_buffers.index(at)
            sums = warpgroup_mma(a, b, sums, use_acc=step > first, is_async=True)
            sums = warpgroup_mma_wait(1, deps=(sums,))
            mbarrier.arrive(empty.index(before), pred=step > first)
            before = at
            at, phase = _next(at, phase, STAGES)
        sums = warpgroup_mma_wait(0, deps=(sums,))
        mbarrier.arrive(empty.index(before))
        left_column, right_column, of_delta = _place(tiles_ptr, work % tiles, d, BLOCK_M, BLOCK_N)
        column, columns_left = right_column + of_delta * d, gl.where(of_delta == 1, width_delta, d) - right_column
        if PIECE == 0:
            out = out_ptr + share.to(gl.int64) * d * (d + width_delta)
            _store_tile(sums, out, left_column, column, columns_left, d, d + width_delta)
        else:
            _add_sums(sums, out_ptr, scale_ptr, left_column, column, columns_left, d, out_stride, sign, PIECE)


@gluon.jit
def _coordinates(tile):
    """Rows and columns of the entries of a tile, as they lie in its threads."""
    m = gl.arange(0, tile.shape[0], layout=gl.SliceLayout(1, tile.type.layout))
    return m, gl.arange(0, tile.shape[1], layout=gl.SliceLayout(0, tile.type.layout))


@gluon.jit
def _store_tile(tile, out, row, column, columns_left, d, columns):
    """Write a tile whose columns stop `columns_left` after `column`."""
    m, k = _coordinates(tile)
    pointers = out + row.to(gl.int64) * columns + column + m[:, None] * columns + k[None, :]
    gl.store(pointers, tile, mask=(row + m < d)[:, None] & (k < columns_left)[None, :])


@gluon.jit
def _add_sums(tile, out, scale_ptr, row, column, columns_left, d, out_stride, sign, PIECE: gl.constexpr):
    """Add a tile to the sums, in pieces of at most PIECE columns: float64 takes two registers an entry."""
    if tile.shape[1] > PIECE:
        HALF: gl.constexpr = tile.shape[1] // 2
        low, high = tile.reshape((tile.shape[0], 2, HALF)).permute((0, 2, 1)).split()
        _add_sums(low, out, scale_ptr, row, column, columns_left, d, out_stride, sign, PIECE)
        _add_sums(high, out, scale_ptr, row, column + HALF, columns_left - HALF, d, out_stride, sign, PIECE)
    else:
        _add_tile(tile, out, scale_ptr, row, column, columns_left, d, out_stride, sign)


@gluon.jit
def _add_tile(tile, out, scale_ptr, row, column, columns_left, d, out_stride, sign):
    """Add a tile to the sums, on and right of the diagonal, divided by the scales of its rows and columns."""
    m, k = _coordinates(tile)
    mask = (row + m < d)[:, None] & (k < columns_left)[None, :] & ((row + m)[:, None] <= (column + k)[None, :])
    total = tile.to(gl.float64) * sign
    if scale_ptr is not None:  # powers of two, whose reciprocals are exact
        unit_row = 1.0 / gl.load(scale_ptr + row + m, mask=row + m < d, other=1.0)
        unit_column = 1.0 / gl.load(scale_ptr + column + k, mask=k < columns_left, other=1.0)
        total = total * unit_row.to(gl.float64)[:, None] * unit_column.to(gl.float64)[None, :]
    pointers = out + row.to(gl.int64) * out_stride + column + m[:, None] * out_stride + k[None, :]
    total += gl.load(pointers, mask=mask, other=0.0).to(gl.float64)
    gl.store(pointers, total.to(out.dtype.element_ty), mask=mask)


@gluon.jit(do_not_specialize=["steps", "split_steps", "tiles", "works", "sign"])
def _gluon_gram_kernel(
    left, right, tiles_ptr, out_ptr, scale_ptr, sign, out_stride, rows, d, width_delta, steps, split_steps, tiles,
    works,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, PIECE: gl.constexpr,
):  # fmt: skip
    """Arguments are those of `_gram_kernel`; the descriptors name the layout of their blocks in shared memory."""
    left_buffers = gl.allocate_shared_memory(left.dtype, [STAGES, BLOCK_K, BLOCK_M], left.layout)
    right_buffers = gl.allocate_shared_memory(right.dtype, [STAGES, BLOCK_K, BLOCK_N], right.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    buffers, barriers = (left_buffers, right_buffers), (full, empty)
    gl.warp_specialize(
        [
            (
                _multiply,
                (
                    buffers, barriers, tiles_ptr, out_ptr, scale_ptr, sign, out_stride, d, width_delta, steps,
                    split_steps, tiles, works, BLOCK_M, BLOCK_N, STAGES, PIECE,
                ),
            ),
            (
                _load,
                (
                    left, right, buffers, barriers, tiles_ptr, rows, d, steps, split_steps, tiles, works,
                    BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
                ),
            ),
        ],
        [1],
        [LOADING_REGISTERS],
    )  # fmt: skip
