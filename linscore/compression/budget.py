"""How small a decoder is to become, in one unit, and what a form of a unit saves of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from linscore.compression.choices import Form
from linscore.compression.forms import Row
from linscore.compression.latency import Latency
from linscore.decoder.cached import block_kv_bytes
from linscore.decoder.find import Decoder
from linscore.errors import LinscoreError
from linscore.models.latency import Workload
from linscore.options.cut import CompressOptions
from linscore.spans import Unit

KINDS = ("params", "memory", "kv", "latency", "loss")
BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Budget:
    """One bound: a share of the blocks' parameters, of the cache or of the time that stays, bytes, or nats lost.

    Attributes:
        kind: the option that it is given by.
        value: its value, in bytes where it is memory.
        workload: what is timed, where it is a latency.
    """

    kind: str
    value: float
    workload: Workload | None = None

    @staticmethod
    def of(asked: CompressOptions) -> Budget:
        """The budget that was asked for.

        Raises:
            LinscoreError: for none, several, or one that cannot be.
        """
        given = {one.name: getattr(asked, one.name) for one in fields(asked) if one.name in KINDS}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            named = " and ".join(f"`{name}`" for name in given) or "no budget"
            raise LinscoreError(f"{named} given: give one of {', '.join(f'`{name}`' for name in KINDS)}")
        [(kind, value)] = given.items()
        if kind == "memory":
            return Budget(kind, _bytes(value))
        if kind == "loss" and not (0 < value < math.inf):
            raise LinscoreError(f"`loss={value}` is no loss that may be added: give a number of nats above 0")
        if kind != "loss" and not 0 < value < 1:
            raise LinscoreError(f"`{kind}={value}` is no share that stays: give a number between 0 and 1")
        return Budget(kind, value, Workload.parse(asked.latency_of) if kind == "latency" else None)

    def describe(self) -> str:
        """For people, and as the option has it."""
        if self.kind == "memory":
            return f"{self.kind} {self.value:,.0f} bytes"
        return f"{self.kind} {self.value:g}" + ("" if self.workload is None else f" of {self.workload}")


@dataclass(frozen=True)
class Task:
    """What a search has to reach.

    Attributes:
        saves: what a form of a unit saves.
        whole: of what `saves` counts, all that the blocks hold.
        enough: what is to be saved; infinite where only the loss is bounded.
        most_loss: the loss that may be reached, nats per token.
    """

    saves: Callable[[Unit, Form], float]
    whole: float
    enough: float
    most_loss: float

    def reached(self, saved: float, loss: float) -> float:
        """How much of what is to be saved is, or of the loss that may be reached."""
        return saved / self.enough if self.enough < math.inf else loss / self.most_loss


def task(
    budget: Budget,
    decoder: Decoder,
    rows: Mapping[Unit, Row],
    loss: float,
    latency: Latency | None = None,
) -> Task:
    """What a budget asks of a decoder.

    Args:
        budget: from `Budget.of`.
        decoder: the whole one.
        rows: all units.
        loss: of the whole decoder.
        latency: of its units, where the time is bounded.

    Raises:
        LinscoreError: where more is to go than can.
    """
    parameters = next(decoder.blocks.parameters())
    scale = parameters.element_size() if budget.kind == "memory" else 1
    if latency is not None:
        return Task(latency.saves, latency.whole, (1 - budget.value) * latency.whole, math.inf)
    if budget.kind == "kv":
        kv = block_kv_bytes(decoder)
        whole, saves = float(sum(kv.values())), _saved_kv(kv)
        if not whole:
            raise LinscoreError(f"{decoder.name} keeps no keys and values block by block: give another budget")
    else:
        whole = scale * float(sum(row.parameters for unit, row in rows.items() if not unit.part))
        saves = _saved_parameters(rows, scale)
    if budget.kind == "loss":
        return Task(saves, whole, math.inf, loss + budget.value)
    enough = (1 - budget.value) * whole
    if budget.kind == "memory":
        model = sum(p.numel() * p.element_size() for p in decoder.model.parameters())
        enough = model - budget.value
        if enough <= 0:
            raise LinscoreError(f"{decoder.name} has {model:,} bytes: give less than that as `memory`")
        if enough > whole:
            left = model - whole
            raise LinscoreError(f"{left:,.0f} bytes of {decoder.name} are no blocks and stay: give more as `memory`")
    return Task(saves, whole, enough, math.inf)


def _saved_parameters(rows: Mapping[Unit, Row], scale: int) -> Callable[[Unit, Form], float]:
    return lambda unit, form: scale * (rows[unit].parameters - rows[unit].holds(form))


def _saved_kv(kv: Mapping[int, int]) -> Callable[[Unit, Form], float]:
    """All of a block's, whatever stands for the block or its attention."""
    return lambda unit, _form: 0.0 if unit.part == "mlp" else float(kv[unit.span.first])


def _bytes(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise LinscoreError(f"`memory={text}` is no number of bytes: write it like 6GB or 500MB")
    return float(match[1]) * BYTES[match[2].upper()]
