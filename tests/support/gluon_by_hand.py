"""A Gluon kernel run by hand, with a thread for each partition: Triton's interpreter runs no Gluon.

The kernel's own source is executed with another `gl`, which holds to the promises of `gluon_hardware` and to no more.
"""

from __future__ import annotations

import builtins
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from gluon_hardware import Barrier, Buffer, Descriptor, Ring, Sums, TensorCore, TensorMemory, tile

PACKAGE = "gluon_by_hand_sources"  # what relative imports of the sources are relative to
_here = threading.local()  # which program runs in this thread


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


def _hopper() -> dict:
    barriers = SimpleNamespace(
        MBarrierLayout=lambda: "barrier",
        init=lambda barrier, count: barrier.start(count),
        expect=Barrier.expect,
        arrive=Barrier.arrive,
        wait=Barrier.wait,
    )
    products = {"warpgroup_mma": multiply, "warpgroup_mma_wait": wait_for_products}
    return {"mbarrier": barriers, "tma": SimpleNamespace(async_load=copy_block)} | products


def _blackwell() -> dict:
    core = TensorCore()
    return {
        "TensorMemoryLayout": lambda *_, **__: None,
        "allocate_tensor_memory": lambda _dtype, shape, _layout: TensorMemory(torch.full(shape, float("nan"))),
        "get_tmem_reg_layout": lambda *_: None,
        "tcgen05_mma": core.multiply,
        "tcgen05_commit": core.commit,
    }


def _modules() -> dict[str, dict]:
    """What a source of Gluon imports."""
    nvidia, blackwell = "triton.experimental.gluon.language.nvidia", _blackwell()
    gluon = {"jit": lambda function=None, **_: function or (lambda function: function)}
    return {
        "triton.experimental": {"gluon": SimpleNamespace(**gluon)},
        "triton.experimental.gluon": {"language": _language()},
        nvidia: {"blackwell": SimpleNamespace(**blackwell)},
        f"{nvidia}.hopper": _hopper(),
        f"{nvidia}.blackwell": blackwell,
        PACKAGE: {"__path__": []},
    }


class Kernel:
    """The kernel `name` of the last of `files` of Gluon, of which later ones import earlier ones by a dot."""

    def __init__(self, *files: Path, name: str):
        with pytest.MonkeyPatch.context() as patch:
            for module, names in _modules().items():
                patch.setitem(sys.modules, module, ModuleType(module))
                sys.modules[module].__dict__.update(names)
            for file in files:
                source = ModuleType(f"{PACKAGE}.{file.stem}")
                source.__dict__["range"] = lambda *bounds: map(tile, builtins.range(*map(int, bounds)))
                source.__package__ = PACKAGE
                exec(compile(file.read_text(encoding="utf-8"), file, "exec"), source.__dict__)
                patch.setitem(sys.modules, source.__name__, source)
        self.run = getattr(source, name)

    def __getitem__(self, grid):
        def launch(left, right, *arguments, **options):
            constants = {name: value for name, value in options.items() if name.isupper()}
            pointers = [Pointer(storage_of(a)) if isinstance(a, torch.Tensor) else a for a in arguments]
            for program in builtins.range(grid[0]):
                _here.program = program, grid[0]
                self.run(Descriptor(left), Descriptor(right), *pointers, **constants)

        return launch
