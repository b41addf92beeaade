"""A Gluon kernel run by hand: a thread for each partition, barriers as the hardware counts them, copies that come late.

Triton's interpreter runs no Gluon. Here the kernel's own source is executed with another `gl`, which holds to the
promises that a GPU makes and to no more: a block is unreadable from the moment that its copy is asked for until someone
waits for it, a product is computed only when someone waits for that, and a wait that nothing ends is an error.
"""

from __future__ import annotations

import builtins
import sys
import threading
from math import prod
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

PATIENCE = 10  # seconds until a wait counts as a deadlock
_here = threading.local()  # which program runs in this thread


class Tile(torch.Tensor):
    """A tensor in registers, or a scalar."""

    type = SimpleNamespace(layout=None)

    def split(self):
        return self[..., 0], self[..., 1]


def tile(value, dtype=None) -> Tile:
    return torch.as_tensor(value, dtype=dtype).as_subclass(Tile)


class Pointer:
    def __init__(self, storage: torch.Tensor, offset=0):
        self.storage, self.offset = storage, offset
        self.dtype = SimpleNamespace(element_ty=storage.dtype)

    def __add__(self, more):
        return Pointer(self.storage, self.offset + more)

    def places(self, mask):
        """Flat places, all of them within the storage; 0 where the mask says no."""
        places = tile(self.offset, torch.int64)
        places = places if mask is None else torch.where(mask, places, 0)
        assert (places >= 0).all()
        assert (places < self.storage.numel()).all()
        return places


def storage_of(tensor: torch.Tensor) -> torch.Tensor:
    """All that lies behind its first entry, strides aside."""
    size = tensor.untyped_storage().nbytes() // tensor.itemsize - tensor.storage_offset()
    return tensor.as_strided((size,), (1,))


class Barrier:
    def __init__(self):
        self.condition, self.copies, self.phase = threading.Condition(), [], 0

    def start(self, count):
        self.count = self.awaited = count
        self.bytes = 0

    def expect(self, size):
        with self.condition:
            self.bytes += size
            self._arrive(1)

    def arrive(self, *, count=1, pred=True):
        with self.condition:
            if pred:
                self._arrive(count)

    def wait(self, phase):
        with self.condition:
            assert self.condition.wait_for(lambda: self._ended(int(phase)), PATIENCE), "nothing ends this wait"

    def _arrive(self, count):
        self.awaited -= count
        assert self.awaited >= 0, "more arrive than are expected"
        self._turn()

    def _ended(self, phase):
        for copy in self.copies:
            self.bytes -= copy()
        self.copies = []
        self._turn()
        return self.phase != phase

    def _turn(self):
        if self.awaited == 0 and self.bytes == 0 and not self.copies:
            self.phase, self.awaited = self.phase ^ 1, self.count
        self.condition.notify_all()


class Buffer:
    def __init__(self, shape, dtype):
        self.values = torch.full(shape, float("nan"), dtype=dtype)

    def permute(self, order):
        view = Buffer.__new__(Buffer)
        view.values = self.values.permute(order)
        return view


class Ring:
    def __init__(self, parts):
        self.parts = parts

    def index(self, at):
        return self.parts[int(at)]


class Descriptor:
    def __init__(self, of):
        self.base, self.block, self.layout, self.dtype = of.base, of.block_shape, of.layout, of.base.dtype
        self.block_type = SimpleNamespace(nbytes=prod(self.block) * self.dtype.itemsize)

    def copy_to(self, buffer, places):
        row, column = map(int, places)
        found = self.base[row : row + self.block[0], column : column + self.block[1]]
        buffer.values.zero_()
        buffer.values[: found.shape[0], : found.shape[1]] = found
        return self.block_type.nbytes


class Sums:
    """An accumulator with products on the way."""

    def __init__(self, done, waiting=()):
        self.done, self.waiting = done, list(waiting)


def copy_block(descriptor, places, barrier, buffer):
    buffer.values.fill_(float("nan"))
    places = [int(place) for place in places]
    with barrier.condition:
        barrier.copies.append(lambda: descriptor.copy_to(buffer, places))
        barrier.condition.notify_all()


def multiply(a, b, sums, *, use_acc, is_async):
    assert is_async
    sums = sums if isinstance(sums, Sums) else Sums(sums)
    return Sums(sums.done, [*sums.waiting, (a, b, bool(use_acc))])


def wait_for_products(left, *, deps):
    (sums,) = deps
    done, waiting = sums.done, sums.waiting
    while len(waiting) > left:
        a, b, add = waiting.pop(0)
        found = a.values.float() @ b.values.float()
        done = tile(done + found if add else found)
    return Sums(done, waiting) if left else done


def allocate(dtype, shape, layout):
    parts = [Barrier() if layout == "barrier" else Buffer(shape[1:], dtype) for _ in builtins.range(shape[0])]
    return Ring(parts)


def load(pointer, mask=None, other=None):
    found = pointer.storage[pointer.places(mask)]
    return tile(found if mask is None else torch.where(mask, found, other))


def store(pointer, value, mask):
    places = pointer.places(mask)
    pointer.storage[places[mask]] = value[mask].to(pointer.storage.dtype)


def run_partitions(partitions, _warps, _registers):
    program, failed = _here.program, []

    def run(function, arguments):
        _here.program = program
        try:
            function(*arguments)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=partition) for partition in partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _language() -> SimpleNamespace:
    return SimpleNamespace(
        **{name: getattr(torch, name) for name in ("int32", "int64", "float32", "float64")},
        constexpr=lambda value: value,
        to_tensor=tile,
        where=lambda condition, a, b: tile(torch.where(tile(condition), tile(a), tile(b))),
        minimum=lambda a, b: torch.minimum(tile(a), tile(b)),
        cdiv=lambda a, b: -(-a // b),
        zeros=lambda shape, dtype, _layout: tile(torch.full(shape, float("nan"), dtype=dtype)),  # no product adds to it
        arange=lambda start, end, **_: tile(torch.arange(start, end)),
        load=load,
        store=store,
        static_range=builtins.range,
        program_id=lambda _axis: tile(_here.program[0]),
        num_programs=lambda _axis: tile(_here.program[1]),
        num_warps=lambda: None,  # what layouts are made of, which are nothing here
        SliceLayout=lambda *_: None,
        NVMMADistributedLayout=lambda *_: None,
        allocate_shared_memory=allocate,
        warp_specialize=run_partitions,
    )


class Kernel:
    """The kernel `name` of a file of Gluon, in place of what Triton makes of it."""

    def __init__(self, file: Path, name: str):
        barriers = SimpleNamespace(
            MBarrierLayout=lambda: "barrier",
            init=lambda barrier, count: barrier.start(count),
            expect=Barrier.expect,
            arrive=Barrier.arrive,
            wait=Barrier.wait,
        )
        hopper = {
            "mbarrier": barriers,
            "tma": SimpleNamespace(async_load=copy_block),
            "warpgroup_mma": multiply,
            "warpgroup_mma_wait": wait_for_products,
        }
        gluon = {"jit": lambda function=None, **_: function or (lambda function: function)}
        made = {
            "triton.experimental": {"gluon": SimpleNamespace(**gluon)},
            "triton.experimental.gluon": {"language": _language()},
            "triton.experimental.gluon.language.nvidia.hopper": hopper,
        }
        kept = {module: sys.modules.get(module) for module in made}
        found: dict = {"range": lambda *bounds: map(tile, builtins.range(*map(int, bounds)))}
        try:
            for module, names in made.items():
                sys.modules[module] = ModuleType(module)
                sys.modules[module].__dict__.update(names)
            exec(compile(file.read_text(encoding="utf-8"), file, "exec"), found)
        finally:
            for module, before in kept.items():
                sys.modules.pop(module) if before is None else sys.modules.update({module: before})
        self.run = found[name]

    def __getitem__(self, grid):
        def launch(left, right, *arguments, **options):
            constants = {name: value for name, value in options.items() if name.isupper()}
            pointers = [Pointer(storage_of(a)) if isinstance(a, torch.Tensor) else a for a in arguments]
            for program in builtins.range(grid[0]):
                _here.program = program, grid[0]
                self.run(Descriptor(left), Descriptor(right), *pointers, **constants)

        return launch
