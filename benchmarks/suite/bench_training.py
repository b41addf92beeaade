"""A step of training a decoder with the regularizer, beside the plain step and the formula as one writes it.

Time: forward, backward and update, in turns. Memory: the exact peak of a step's allocations (torch's profiler on a CPU,
the allocator's own count on a GPU), above the plain step's, as a share of the states h_0 … h_L.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
import transformers
from exact_memory import peak_bytes
from measure import compare
from shapes import DEVICE, TINY
from torch.nn import functional
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedModel

from linscore.machine.timing import clock
from linscore.pretraining.recipe import read_recipe
from linscore.regularization.regularizer import LinearityRegularizer

GROUP = "training step"
ROWS, LENGTH = (2, 64) if TINY else (32, 512) if DEVICE.type == "cuda" else (8, 512)
SHAPE = read_recipe("1M" if TINY else "150M" if DEVICE.type == "cuda" else "10M").model
WEIGHTS = {"cosine": 0.5}
HOOKS_ONCE = 5, 23  # from this version of transformers on; to try an older one would spoil the process
pytestmark = pytest.mark.benchmark(timer=clock)
with_and_without = pytest.mark.parametrize(
    "checkpointing", [False, pytest.param(True, marks=pytest.mark.checkpointing)]
)


def decoder(checkpointing: bool) -> PreTrainedModel:
    if checkpointing and tuple(map(int, transformers.__version__.split(".")[:2])) < HOOKS_ONCE:
        pytest.skip(f"transformers {transformers.__version__} runs hooks again in a checkpoint, which is refused")
    torch.manual_seed(0)
    config = MistralConfig(**{"vocab_size": 2048, **SHAPE}, sliding_window=None, max_position_embeddings=LENGTH)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def formula(states: tuple[torch.Tensor, ...]) -> torch.Tensor:
    pairs = pairwise(states)
    return WEIGHTS["cosine"] * sum((1 - functional.cosine_similarity(x, y, dim=-1)).mean() for x, y in pairs)


def step_of(model: PreTrainedModel, how: str, ids: torch.Tensor) -> Callable[[], None]:
    """Forward and backward, in the products' dtype of a training; `how` is "plain", "regularized" or "formula"."""
    mixed = torch.autocast("cuda", torch.bfloat16) if DEVICE.type == "cuda" else nullcontext()

    def step() -> None:
        with LinearityRegularizer(model, **WEIGHTS) if how == "regularized" else nullcontext() as regularizer:
            with mixed:
                out = model(input_ids=ids, labels=ids, use_cache=False, output_hidden_states=how == "formula")
                loss = out.loss + (formula(out.hidden_states) if how == "formula" else 0)
            if regularizer is not None:
                loss = loss + regularizer.loss()
            loss.backward()

    return step


def tokens() -> torch.Tensor:
    return torch.randint(2048, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)).to(DEVICE)


@pytest.mark.seconds(gpu=15, cpu=60)
@with_and_without
def test_time_of_a_step(benchmark, checkpointing):
    benchmark.group = GROUP
    model = decoder(checkpointing)
    optimizer, ids = torch.optim.AdamW(model.parameters(), fused=True), tokens()

    def updated(how: str) -> Callable[[], None]:
        step = step_of(model, how, ids)

        def run() -> None:
            step()
            optimizer.step()
            optimizer.zero_grad()

        return run

    peers = {name: updated(how) for name, how in (("plain step", "plain"), ("hidden states and formula", "formula"))}
    millions = model.num_parameters() / 1e6
    shape = (
        f"Mistral of {millions:.1f} M parameters, {ROWS} × {LENGTH} tokens{', gradient checkpointing' * checkpointing}"
    )
    compare(benchmark, updated("regularized"), peers, shape=shape, dtype=torch.float32, rounds=9, fewest=9, long=True)


@pytest.mark.seconds(gpu=8, cpu=40)
@with_and_without
def test_peak_memory_of_a_step(record_property, checkpointing):
    model, ids, peaks = decoder(checkpointing), tokens(), {}
    for how in ("plain", "regularized", "formula"):
        step = step_of(model, how, ids)
        step()  # gradients of weights are there from now on
        peaks[how] = peak_bytes(step, DEVICE)
    states = (len(model.model.layers) + 1) * ids.numel() * model.config.hidden_size * 4
    record_property("step", f"{len(model.model.layers)} blocks of width {model.config.hidden_size}, {ROWS} × {LENGTH}")
    record_property("gradient checkpointing", checkpointing)
    record_property("peak of the plain step, of all states", peaks["plain"] / states)
    for how in ("regularized", "formula"):
        record_property(f"{how}: peak above the plain step's, of all states", (peaks[how] - peaks["plain"]) / states)
