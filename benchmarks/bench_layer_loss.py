"""The layer regularizers, forward and backward, beside the formula as one writes it; and the memory of a step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from measure import add_floor, compare
from shapes import DEVICE, SHAPES
from torch.nn import functional

from linscore.allocator import keep_freed_memory
from linscore.bench import clock, floor, rates
from linscore.training import Chain, layer_loss, tap

GROUP = "layer loss"
TINY = SHAPES.tokens < 16_384
STATES = 9
D = 64 if TINY else 4096 if DEVICE.type == "cuda" else 1024
TOKENS = min(SHAPES.tokens, 16_384)
WEIGHTS = {"cosine": 1.0, "mse": 0.1}
STEP = (4, 512, 64) if TINY else (16, 4096, 512)  # blocks, tokens, d of the training step
pytestmark = pytest.mark.benchmark(timer=clock)


def formula(states: list[torch.Tensor]) -> torch.Tensor:
    loss = states[0].new_zeros(())
    for x, y in pairwise(states):
        loss = loss + WEIGHTS["cosine"] * (1 - functional.cosine_similarity(x, y, dim=-1)).mean()
        loss = loss + WEIGHTS["mse"] * (y - x).square().sum(-1).mean()
    return loss


def by_taps(states: list[torch.Tensor]) -> torch.Tensor:
    chain = Chain(**WEIGHTS)
    for state in states:
        tap(state, chain)
    return chain.loss()


def stream() -> list[torch.Tensor]:
    """Leaves `[tokens, d]`, each a tenth of its length away from the one before."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    noise = [torch.randn(TOKENS, D, generator=generator, device=DEVICE) for _ in range(STATES)]
    for previous, state in pairwise(noise):
        state.mul_(0.1).add_(previous)
    return [state.to(SHAPES.dtype).requires_grad_() for state in noise]


@pytest.mark.seconds(gpu=20, cpu=90)
def test_forward_and_backward(benchmark):
    benchmark.group = GROUP
    states = stream()

    def step(loss: Callable[[list[torch.Tensor]], torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(states), states)

    peers = {
        "the formula": step(formula),
        "torch.compile of the formula": step(torch.compile(formula, dynamic=False)),
        "our taps": step(by_taps),
    }
    shape = f"{STATES} states, d = {D}, {TOKENS:,} tokens"
    ours = step(lambda given: layer_loss(given, **WEIGHTS))
    compare(benchmark, ours, peers, shape=shape, dtype=SHAPES.dtype, rounds=5)
    moved = 3 * sum(state.nbytes for state in states)  # each state read in forward and in backward, and its gradient
    add_floor(benchmark, floor(0, moved, rates(DEVICE, SHAPES.dtype)))


class Block(torch.nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(d, d)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + functional.gelu(self.linear(h))


def train(how: str) -> None:
    """Two steps of a chain of blocks and a head; `how` is "plain", "taps" or "formula"."""
    blocks, tokens, d = STEP
    model = torch.nn.ModuleList(Block(d) for _ in range(blocks)).to(DEVICE)
    head, h_0 = torch.nn.Linear(d, 2 * d).to(DEVICE), torch.randn(tokens, d, device=DEVICE)
    for _ in range(2):
        chain = Chain(**WEIGHTS if how == "taps" else {})
        states = [tap(h_0.detach().requires_grad_(), chain)]
        for block in model:
            h = tap(block(states[-1]), chain)
            states = [*states, h] if how == "formula" else [h]
        loss = functional.cross_entropy(head(states[-1]), torch.zeros(tokens, dtype=torch.long, device=DEVICE))
        (loss + (formula(states) if how == "formula" else chain.loss().to(DEVICE))).backward()


def print_peak(how: str) -> None:
    """Peak bytes of `train`, in a process of its own."""
    keep_freed_memory()
    torch.manual_seed(0)
    train(how)
    if DEVICE.type == "cuda":
        print(torch.cuda.max_memory_allocated())
        return
    # Not ru_maxrss, which a child inherits from the process that started it.
    status = Path("/proc/self/status").read_text()
    print(1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]))


@pytest.mark.seconds(gpu=60, cpu=60)
def test_peak_memory_of_a_step(record_property):
    peaks = {}
    for how in ("plain", "taps", "formula"):
        code = f"from bench_layer_loss import print_peak; print_peak({how!r})"
        run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
        peaks[how] = int(run.stdout)
    blocks, tokens, d = STEP
    states = (blocks + 1) * tokens * d * 4
    record_property("step", f"{blocks} blocks, {tokens:,} tokens, d = {d}, float32")
    for how in ("taps", "formula"):
        record_property(f"{how}: peak above the plain step's, of all states", (peaks[how] - peaks["plain"]) / states)
