"""What this machine does at best: every floor is made of these, and the expectations of `expected.py` assume them."""

import torch
from shapes import DEVICE

from linscore.machine.kernel_cases import product_dtype
from linscore.machine.timing import clock, rates

GROUP = "rates"
DTYPES = (torch.bfloat16, torch.float16) if DEVICE.type == "cuda" else (torch.float32,)
LAUNCHES = 2000


def test_rates(record_property):
    unit, prefix = (1e12, "T") if DEVICE.type == "cuda" else (1e9, "G")
    for dtype in DTYPES:
        machine = rates(DEVICE, product_dtype(dtype, DEVICE))
        record_property(f"{prefix}FLOP/s, {str(dtype).removeprefix('torch.')}", machine.matrix / unit)
    record_property(f"{prefix}B/s of a copy", machine.copy / unit)
    record_property("µs of a launch", 1e6 * seconds_of_a_launch())


def seconds_of_a_launch() -> float:
    """What one small operation costs among many: the host's time, which more work on the device would hide."""
    few = torch.zeros(8, device=DEVICE)
    started = clock()
    for _ in range(LAUNCHES):
        few.add_(1)
    return (clock() - started) / LAUNCHES
