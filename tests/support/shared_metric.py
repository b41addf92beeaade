"""Batches for the metric of torchmetrics, and what each of two processes sees of it."""

import torch
from oracles import states

from linscore import Moments

D, ROWS = 8, 120


def batches(count: int = 4, offset: float = 0.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches `[2, 60, d]` float64 of different means, so that each has a pilot of its own; one holds a heavy row."""
    found = []
    for seed in range(count):
        x, y = (one.double() + seed + offset for one in states(ROWS, D, seed=seed))
        found.append((x.view(2, -1, D), y.view(2, -1, D)))
    found[-1][0][0, 7] *= 60
    return found


def moments_of(given, **options) -> Moments:
    """The sums of all rows of some batches."""
    moments = Moments(D, **options)
    for x, y in given:
        moments.update(x, y)
    return moments


def in_one_of_two() -> tuple[float, float, float, int]:
    """The figure over both processes, that of the last batch of both, and afterwards what this one has by itself."""
    from linscore.torchmetrics import BlockLinearity

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, metric = torch.distributed.get_rank(), BlockLinearity(D, dist_sync_on_step=True)
    for x, y in batches()[rank::2]:
        step = metric(x, y).item()
    found, alone = metric.compute().item(), metric.moments
    torch.distributed.destroy_process_group()
    return found, step, alone.compute().linearity, alone.rows(0)
