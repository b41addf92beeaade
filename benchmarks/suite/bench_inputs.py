"""`Moments.update` of the same rows in every form that a caller may have them in, against float32 rows `[n, d]`."""

import numpy as np
import pytest
import torch
from measure import compare
from shapes import DEVICE, SHAPES

from linscore import Moments
from linscore.machine.kernel_cases import random_states
from linscore.machine.timing import clock

pytestmark = pytest.mark.benchmark(timer=clock)
GROUP = "what a caller has"
SEQUENCES = 16


@pytest.mark.seconds(gpu=10, cpu=30)
def test_forms_of_input(benchmark):
    benchmark.group = GROUP
    d, tokens = SHAPES.widths[0], SHAPES.tokens // 4
    x, y = random_states(d, tokens, torch.float32, DEVICE)
    forms = forms_of(x.view(SEQUENCES, -1, d), y.view(SEQUENCES, -1, d))
    moments = {name: Moments(d, device=DEVICE) for name in forms}
    peers = {name: lambda name=name, form=form: update(moments[name], form) for name, form in forms.items()}
    plain = Moments(d, device=DEVICE)
    compare(
        benchmark,
        lambda: plain.update(x, y),
        peers,
        shape=f"d = {d}, {tokens:,} tokens",
        dtype=x.dtype,
        rounds=7,
        fewest=7,
    )


def update(moments: Moments, form: tuple) -> None:
    moments.update(*form)


def forms_of(x: torch.Tensor, y: torch.Tensor) -> dict[str, tuple]:
    """What `update` is called with."""
    every = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    padded = every.clone()
    padded[:, : x.shape[1] // 8] = False
    turned = tuple(one.transpose(0, 1).contiguous().transpose(0, 1) for one in (x, y))
    apart = tuple(one.repeat_interleave(2, -1)[..., ::2] for one in (x, y))
    forms = {
        "3-D": (x, y),
        "requires_grad": (x.clone().requires_grad_(), y),
        "a mask of ones": (x, y, every),
        "a mask, an eighth padded": (x, y, padded),
        "the same mask as int64": (x, y, padded.long()),
        "float16": (x.half(), y.half()),
        "bfloat16": (x.bfloat16(), y.bfloat16()),
        "float64": (x.double(), y.double()),
        "batch and sequence transposed": turned,
        "every other feature of a wider one": apart,
    }
    if x.device.type == "cpu":
        backwards = tuple(np.ascontiguousarray(one.flip(-1).numpy())[..., ::-1] for one in (x, y))
        forms |= {
            "NumPy": (x.numpy(), y.numpy()),
            "NumPy, float64": (x.double().numpy(), y.double().numpy()),
            "NumPy, features backwards": backwards,
        }
    return forms
