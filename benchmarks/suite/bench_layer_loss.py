"""The layer regularizers by themselves, forward and backward, beside the formula as one writes it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from measure import add_floor, compare
from shapes import DEVICE, SHAPES, TINY
from torch.nn import functional

from linscore.machine.timing import clock, floor, rates
from linscore.regularization.taps import Chain, layer_loss, tap

GROUP = "layer loss"
STATES = 9
D = 64 if TINY else 4096 if DEVICE.type == "cuda" else 1024
TOKENS = min(SHAPES.tokens, 16_384)
WEIGHTS = {"cosine": 1.0, "mse": 0.1}
Loss = Callable[[list[torch.Tensor]], torch.Tensor]
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


@pytest.mark.seconds(gpu=8, cpu=40)
def test_forward_and_backward(benchmark):
    compare_losses(benchmark, {"the formula": formula, "our taps": by_taps})


@pytest.mark.seconds(gpu=20, cpu=50)
def test_torch_compile(benchmark):
    compare_losses(benchmark, {"torch.compile of the formula": torch.compile(formula, dynamic=False)})


def compare_losses(benchmark, losses: dict[str, Loss]) -> None:
    """The layer loss and its gradient beside those of `losses`."""
    benchmark.group = GROUP
    states = stream()

    def step(loss: Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(states), states)

    shape = f"{STATES} states, d = {D}, {TOKENS:,} tokens"
    ours, peers = step(lambda given: layer_loss(given, **WEIGHTS)), {name: step(loss) for name, loss in losses.items()}
    compare(benchmark, ours, peers, shape=shape, dtype=SHAPES.dtype, rounds=5)
    if DEVICE.type == "cuda":
        from expected import layer_loss_seconds  # which asks for Triton

        benchmark.extra_info["expected_s"] = layer_loss_seconds(STATES, states[0].nbytes)
    moved = 3 * sum(state.nbytes for state in states)  # each state read in forward and in backward, and its gradient
    add_floor(benchmark, floor(0, moved, rates(DEVICE, SHAPES.dtype)))
