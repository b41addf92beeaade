"""Moments by name, each on the device where it is to be used, and which device solves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from linscore.machine.timing import quick_matrix_rate
from linscore.statistics.moments import Moments

HOST = torch.device("cpu")


def where_to_solve(device: torch.device) -> torch.device:
    """`device`, or the host where that multiplies float64 faster: measured once, in a fraction of a second.

    (decisions: Solves where float64 is faster)
    """
    if device.type == HOST.type:
        return device
    there, here = (quick_matrix_rate(one, torch.float64) for one in (device, HOST))
    return device if there >= here else HOST


class Placed(Mapping[str, Moments]):
    """Moments by name; each is on the device that `place` gives for its own for as long as it is used."""

    def __init__(self, moments: Mapping[str, Moments], place: Callable[[torch.device], torch.device]) -> None:
        self._moments, self._place = moments, place

    def __getitem__(self, name: str) -> Moments:
        moments = self._moments[name]
        return moments.on(self._place(moments.device))

    def __iter__(self) -> Iterator[str]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)
