"""States that are hard on the kernels, and the float64 formulas that their results are held against."""

from __future__ import annotations

import torch
from linscore_kernels.pilot import Pilot
from linscore_kernels.second_moments import triton as triton_backend
from linscore_kernels.tuning import parameters as launch_parameters
from linscore_kernels.tuning.parameters import Entry, Launch, launch_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
# The interpreter's time goes by programs and steps: unequal sides, so that the triangle crosses tiles, and long steps.
SMALL = Launch(block_m=64, block_n=128, block_k=128 if not ON_GPU else 32, warps=4, stages=2, descriptors=False)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FLOAT32_ERROR = 2e-7  # relative Frobenius error of "exact" and float32 (a plain float32 product: 1e-7)


def hard(n: int, d: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Pilot]:
    """A residual stream x, y with columns of scales over 1e4, one in eight with a mean of 30 σ, and its pilot.

    δ is a tenth of x. The pilot is taken from 64 further rows, as it is from earlier batches.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-2, 2, d)[torch.randperm(d, generator=generator)]
    mean = 30 * scale * (torch.arange(d) % 8 == 0)
    unit = torch.randn(n + 64, d, generator=generator)
    step = 0.1 * unit.roll(1, 1) + 0.05 * torch.randn(n + 64, d, generator=generator)
    x = (unit * scale + mean).to(dtype)
    y = (x + step * scale + mean / 10).to(dtype)
    pilot = Pilot.choose(x[n:], y[n:])
    assert pilot is not None
    return x[:n].to(DEVICE), y[:n].to(DEVICE), pilot.to(DEVICE)


def shifted(x: torch.Tensor, delta: torch.Tensor, pilot: Pilot) -> tuple[torch.Tensor, torch.Tensor]:
    return x.double() - pilot.center_x.double(), delta.double() - pilot.center_delta.double()


def products(x_hat: torch.Tensor, delta_hat: torch.Tensor) -> torch.Tensor:
    return torch.cat([x_hat.T @ x_hat, x_hat.T @ delta_hat], 1).double()


def error(got: torch.Tensor, x_hat: torch.Tensor, delta_hat: torch.Tensor, pilot: Pilot) -> float:
    """The larger relative Frobenius error of the two halves, of columns of unit length or the pilot's if longer."""
    n, d = x_hat.shape
    x_hat, delta_hat = x_hat.double(), delta_hat.double()
    length = n**0.5 / torch.cat([pilot.scale_x, pilot.scale_delta]).double()
    column = torch.maximum(torch.cat([x_hat, delta_hat], 1).norm(dim=0), length)
    row = column[:d, None]
    wrong, true = (got - products(x_hat, delta_hat)) / (row * column), products(x_hat, delta_hat) / (row * column)
    wrong[:, :d], true[:, :d] = wrong[:, :d].triu(), true[:, :d].triu()
    halves = zip(wrong.split(d, 1), true.split(d, 1), strict=True)
    return max((a.norm() / b.norm()).item() for a, b in halves)


def moments(x, other, pilot, **options):
    d = x.shape[1]
    second = torch.zeros(d, 2 * d, dtype=torch.float64, device=DEVICE)
    options = {"launch": SMALL, "delta_given": False, **options}
    return second, triton_backend.accumulate(x, other, second, pilot=pilot, **options)


def torch_everywhere(monkeypatch):
    """As if a measurement had found torch faster at every width and on every path."""
    table = {
        80: {path: Entry(launch_for(80, 4096, path), launch_parameters.LADDER) for path in launch_parameters.PATHS}
    }
    monkeypatch.setattr(launch_parameters, "launch_table", lambda: table)
