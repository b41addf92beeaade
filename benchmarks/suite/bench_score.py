"""The whole job beside the plain forward pass, and beside keeping all hidden states and taking their SVDs.

On a CPU "scoring" is all of `linscore.score`. On a GPU the streaming pass is timed by itself and the solves, whose cost
does not depend on the text, by themselves: 1M tokens "at the measured rate" puts the two together.
"""

import statistics
from itertools import pairwise

import pytest
import torch
from bench_pair import by_svd
from gpu_figures import device_shares, moments_figures, peak_memory
from llamas import FORWARD, batches, build, collect, forward, least_seconds
from measure import add_floor, compare
from shapes import DEVICE, SHAPES, LlamaShape

import linscore
from linscore.machine.timing import Timing, clock

GROUP = "whole job"
ON_GPU = DEVICE.type == "cuda"
PAPER_RATE = 15_174 * 31 / 2_276  # token-pairs per second of the paper's notebook on Llama-2-7B
SVD_PATIENCE = 20.0  # seconds
pytestmark = pytest.mark.benchmark(timer=clock)


@pytest.mark.seconds(gpu=90, cpu=150)
@pytest.mark.parametrize("shape", SHAPES.decoders, ids=lambda shape: shape.name)
def test_scoring_against_the_plain_forward_pass(benchmark, shape):
    benchmark.group = GROUP
    model, text = build(shape, SHAPES.dtype), batches(shape)
    seconds = []

    def score() -> None:
        seconds.append(linscore.score(model, text).seconds)

    job = (lambda: collect(model, text)) if ON_GPU else score
    name, peers = f"{shape.name}, {shape.tokens:,} tokens", {FORWARD: lambda: forward(model, text)}
    timing = compare(benchmark, job, peers, shape=name, dtype=SHAPES.dtype, rounds=3, long=True)
    add_floor(benchmark, least_seconds(shape, SHAPES.dtype, shape.blocks, timing.peer_median(FORWARD)))
    figures = benchmark.extra_info["figures"]
    figures |= throughput(shape, timing)
    for part in ("collect", "solve") if seconds else ():
        figures[f"{part}, seconds"] = statistics.median(run[part] for run in seconds)
    if ON_GPU:
        figures |= peak_memory(model, text)
        figures |= moments_figures(model, text, shape, figures["tokens/s, scoring"])
        figures |= device_shares(model, text, timing.median / len(text))


def throughput(shape: LlamaShape, timing: Timing) -> dict[str, float]:
    plain, scoring = timing.peer_median(FORWARD), timing.median
    pairs = shape.tokens * shape.blocks / scoring
    return {
        "scoring / forward": 1 / timing.ratio(FORWARD),
        "tokens/s, forward": shape.tokens / plain,
        "tokens/s, scoring": shape.tokens / scoring,
        "token-pairs/s": pairs,
        "times the paper's notebook": pairs / PAPER_RATE,
    }


@pytest.mark.seconds(gpu=75, cpu=60)
def test_scoring_against_all_hidden_states_and_their_svds(benchmark):
    """Both scores of each pair; the SVDs stop when patience ends, and the rate is that of the pairs done."""
    benchmark.group = "whole job against hidden states + SVD"
    shape = SHAPES.hidden_states
    tokens = max(2 * shape.width, shape.sequence)
    model, ids = build(shape, SHAPES.dtype), torch.randint(shape.vocabulary, (tokens // shape.sequence, shape.sequence))
    name = f"{shape.name}, {ids.numel():,} tokens"
    timing = compare(
        benchmark,
        lambda: linscore.score(model, [ids], folds=1, spectra=False),
        {},
        shape=name,
        dtype=SHAPES.dtype,
        rounds=3,
    )
    started = clock()
    pairs = by_hidden_states(model, ids.to(DEVICE))
    rate, ours = pairs * ids.numel() / (clock() - started), shape.blocks * ids.numel() / timing.median
    benchmark.extra_info["figures"] |= {
        "hidden states + SVD: pairs done": f"{pairs} of {shape.blocks}",
        "its token-pairs/s, one run": rate,
        "token-pairs/s of linscore, solves included": ours,
        "ratio of the rates": ours / rate,
    }


@torch.no_grad()
def by_hidden_states(model, ids: torch.Tensor) -> int:
    """What the paper's notebook does; returns how many pairs were done."""
    states = model.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    started, done = clock(), 0
    for x, y in pairwise(state.flatten(0, 1).float() for state in states):
        by_svd(x, y)
        done += 1
        if clock() - started > SVD_PATIENCE:
            break
    return done
