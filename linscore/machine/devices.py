"""What a score may run on: this machine as it is found, or devices that are named, as their makers state them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch

from linscore.errors import LinscoreError
from linscore.machine.free_memory import free_host_memory
from linscore.machine.timing import quick_matrix_rate

__all__ = ["CARDS", "DISK", "Devices", "here", "kind_of", "named"]

DISK = 2e9  # bytes per second that weights are read from a disk: assumed, of an NVMe disk
PCIE_4, PCIE_5 = 25e9, 50e9  # bytes per second from pinned memory to a card: about 80 % of what is stated
USABLE = 0.95  # of a card's memory: the rest is the driver's
GB = 10**9


class Card(NamedTuple):
    """Of one card, as its maker states it."""

    name: str
    memory: float  # GB
    matrix: float  # TFLOP/s of dense bfloat16 products, summed in float32
    link: float  # bytes per second from the host


# By what people type, in lower case and without what is neither letter nor digit. From the makers' data sheets, those
# of H100, H200 and B200 of the SXM boards.
CARDS = {
    "b200": Card("B200", 180, 2250, PCIE_5),
    "h200": Card("H200", 141, 989, PCIE_5),
    "h100": Card("H100", 80, 989, PCIE_5),
    "a10080": Card("A100-80", 80, 312, PCIE_4),
    "a10040": Card("A100-40", 40, 312, PCIE_4),
    "l40s": Card("L40S", 48, 362, PCIE_4),
    "l4": Card("L4", 24, 121, PCIE_4),
    "rtx5090": Card("RTX 5090", 32, 209, PCIE_5),
    "rtx4090": Card("RTX 4090", 24, 165, PCIE_4),
    "rtx3090": Card("RTX 3090", 24, 71, PCIE_4),
}


@dataclass(frozen=True)
class Devices:
    """What a score may run on. None: nothing says."""

    name: str
    kind: str  # "cpu" or "cuda"
    count: int
    memory: int | None  # bytes that are free on each; on a CPU those of the host
    host: int | None  # bytes that are free in host memory
    matrix: float | None  # FLOP per second of a plain product on each
    link: float  # bytes per second from host memory, or from the disk where there is no other
    measured: bool  # whether these are of this machine


def here(device: torch.device, dtype: torch.dtype, *, rates: bool = True) -> Devices:
    """This machine, with the rate of products of `dtype`; measuring `rates` takes a fraction of a second."""
    host, matrix = free_host_memory(), quick_matrix_rate(device, dtype) if rates else None
    if device.type == "cpu":
        return Devices("this machine's CPU", "cpu", 1, host, host, matrix, DISK, measured=True)
    count = 1 if device.index is not None else torch.cuda.device_count()
    free = min(torch.cuda.mem_get_info(device if count == 1 else index)[0] for index in range(count))
    name = f"{count} × {torch.cuda.get_device_name(device)}"
    return Devices(name, "cuda", count, free, host, matrix, PCIE_4, measured=True)


def named(what: str, dtype: torch.dtype) -> Devices:
    """Devices such as "8xH100", "H200" or "2 x RTX 4090"; "cpu" is that of this machine.

    Raises:
        LinscoreError: for others, with those that are known.
    """
    count, card = _parsed(what)
    if card is None:
        return here(torch.device("cpu"), dtype)
    # Other dtypes run at other rates, of which data sheets say little.
    matrix = card.matrix * 1e12 if dtype in (torch.bfloat16, torch.float16) else None
    memory = int(USABLE * card.memory * GB)
    return Devices(f"{count} × {card.name}", "cuda", count, memory, None, matrix, card.link, measured=False)


def kind_of(what: str) -> torch.device:
    """Such a device, whether it is there or not. Raises LinscoreError as `named` does."""
    return torch.device("cpu" if _parsed(what)[1] is None else "cuda")


def _parsed(what: str) -> tuple[int, Card | None]:
    """How many of which card; None for a CPU."""
    found = re.fullmatch(r"(?:(\d+)\s*[x×*]\s*)?(\S.*)", what.strip())
    count, word = (int(found[1] or 1), re.sub(r"[^a-z0-9]|gb$", "", found[2].lower())) if found else (0, "")
    if word == "cpu" and count == 1:
        return count, None
    card = CARDS.get(word) or CARDS.get(f"rtx{word}")
    if card is None or not count:
        known = ", ".join(card.name for card in CARDS.values())
        raise LinscoreError(f"`devices={what}` is not known: give cpu, or cards like H100 or 8xH100, of {known}")
    return count, card
