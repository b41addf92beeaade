"""What a GPU promises a Gluon kernel, and no more: barriers, blocks in shared memory, products that come late.

A block is unreadable from the moment that its copy is asked for until someone waits for it, a product is computed only
when someone waits for that, and a wait that nothing ends is an error.
"""

from __future__ import annotations

import threading
from math import prod
from types import SimpleNamespace

import torch

PATIENCE = 10  # seconds until a wait counts as a deadlock


class Tile(torch.Tensor):
    """A tensor in registers, or a scalar."""

    type = SimpleNamespace(layout=None)

    def split(self):
        return self[..., 0], self[..., 1]


def tile(value, dtype=None) -> Tile:
    return torch.as_tensor(value, dtype=dtype).as_subclass(Tile)


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
        copies, self.copies = self.copies, []
        for copy in copies:
            self.bytes -= copy()
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


class TensorMemory:
    """Sums that a unit of its own adds products to, in the order in which they were asked for."""

    def __init__(self, values):
        self.values = values

    def index(self, at):
        return TensorMemory(self.values[int(at)])

    def slice(self, start, length):
        return TensorMemory(self.values[:, start : start + length])

    def load(self, _layout):
        return tile(self.values.clone())

    shape = layout = None  # what layouts are made of, which are nothing here


class TensorCore:
    """What is asked of it is done when someone waits for a barrier that was to say so."""

    def __init__(self):
        self.asked, self.lock = [], threading.RLock()

    def multiply(self, a, b, sums, *, use_acc, mbarriers):
        def product():
            found = a.values.float() @ b.values.float()
            sums.values.copy_(sums.values + found if use_acc else found)

        use_acc = bool(use_acc)
        with self.lock:
            self.asked.append(product)
        for barrier in mbarriers:
            self.commit(barrier)

    def commit(self, barrier):
        upto = len(self.asked)

        def done():
            with self.lock:
                for place, product in enumerate(self.asked[:upto]):
                    product()
                    self.asked[place] = lambda: None
            barrier._arrive(1)
            return 0

        with barrier.condition:
            barrier.copies.append(done)
            barrier.condition.notify_all()


class Sums:
    """An accumulator with products on the way."""

    def __init__(self, done, waiting=()):
        self.done, self.waiting = done, list(waiting)
