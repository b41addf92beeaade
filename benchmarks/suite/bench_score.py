"""The whole job beside the plain forward pass, and beside keeping all hidden states and taking their SVDs.

On a CPU "scoring" is all of `linscore.score`. On a GPU the streaming pass is timed by itself and the solves, whose cost
does not depend on the text, by themselves: 1M tokens "at the measured rate" puts the two together.
"""

import statistics
from itertools import pairwise

import pytest
import torch
from bench_pair import by_svd
from gpu_figures import device_shares, equal_bits, peak_memory, solves, solves_in_batches
from llamas import FORWARD, Text, add_sinks, batches, build, collect, forward, least_seconds
from measure import add_floor, compare
from shapes import DEVICE, SHAPES, TINY, LlamaShape
from transformers import PreTrainedModel

import linscore
from linscore.machine.timing import Timing, clock

GROUP = "whole job"
ON_GPU = DEVICE.type == "cuda"
PAPER_RATE = 15_174 * 31 / 2_276  # token-pairs per second of the paper's notebook on Llama-2-7B
SVD_PATIENCE = 20.0  # seconds
pytestmark = pytest.mark.benchmark(timer=clock)


@pytest.mark.seconds(gpu=25, cpu=120)
@pytest.mark.parametrize("sinks", [True, False] if ON_GPU or TINY else [False])
def test_the_larger_decoder(benchmark, sinks):
    """With attention sinks first, as trained ones have them."""
    score_beside_forward(benchmark, SHAPES.decoders[0], sinks=sinks)


@pytest.mark.seconds(gpu=15, cpu=60)
def test_the_smaller_decoder(benchmark):
    score_beside_forward(benchmark, SHAPES.decoders[-1], sinks=False)


def score_beside_forward(benchmark, shape: LlamaShape, *, sinks: bool) -> None:
    """Scoring beside the plain forward pass; `sinks` makes each sequence's first token a heavy row of every block."""
    benchmark.group = GROUP
    model, text = build(shape, SHAPES.dtype), batches(shape)
    if sinks:
        add_sinks(model, text)
    seconds = []

    def score() -> None:
        seconds.append(linscore.score(model, text).seconds)

    job = (lambda: collect(model, text)) if ON_GPU else score
    name = f"{shape.name}, {shape.tokens:,} tokens{', attention sinks' * sinks}"
    peers = {FORWARD: lambda: forward(model, text)}
    timing = compare(benchmark, job, peers, shape=name, dtype=SHAPES.dtype, rounds=3, long=True)
    plain = timing.peer_median(FORWARD)
    add_floor(benchmark, least_seconds(shape, SHAPES.dtype, shape.blocks, plain))
    if ON_GPU:
        from expected import scoring_seconds  # which asks for Triton

        benchmark.extra_info["expected_s"] = plain + scoring_seconds(shape, SHAPES.dtype, sinks * shape.sequences)
    figures = benchmark.extra_info["figures"]
    figures |= throughput(shape, timing) | blocks_with_heavy_rows(model, text, shape, sinks)
    for part in ("collect", "solve") if seconds else ():
        figures[f"{part}, seconds"] = statistics.median(run[part] for run in seconds)
    if ON_GPU and (sinks or shape is not SHAPES.decoders[0]):  # once for each decoder
        figures |= peak_memory(model, text) | equal_bits(model, text)
        figures |= device_shares(model, text, timing.median / len(text))


def blocks_with_heavy_rows(model: PreTrainedModel, text: Text, shape: LlamaShape, sinks: bool) -> dict[str, int]:
    """In how many blocks a batch has heavy rows: in most where it is to have them, else the figures flatter."""
    moments = collect(model, text[:1])
    found = sum(moments[f"block.{index}"].heavy_rows >= shape.batch for index in range(shape.blocks))
    assert not sinks or 2 * found > shape.blocks
    return {"blocks with heavy rows": found}


@pytest.mark.seconds(gpu=15, cpu=0)
@pytest.mark.skipif(not ON_GPU, reason="the whole of a score is timed on a CPU, solves included")
@pytest.mark.parametrize("shape", SHAPES.decoders[::-1], ids=lambda shape: shape.name)
def test_solves(record_property, shape):
    """Their cost does not depend on the text, so they are timed by themselves."""
    model, text = build(shape, SHAPES.dtype), batches(shape)
    for name, value in solves(model, text, shape).items():
        record_property(name, value)


@pytest.mark.seconds(gpu=8, cpu=0)
@pytest.mark.skipif(not ON_GPU, reason="a CPU solves one after the other in any case")
@pytest.mark.parametrize("d", SHAPES.widths[1:3])
def test_batched_solves(record_property, d):
    """Whether the matrices of all blocks should be solved at once (decisions: Solves one by one)."""
    for name, value in solves_in_batches(d).items():
        record_property(name, value)


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


@pytest.mark.seconds(gpu=30, cpu=30)
def test_all_hidden_states_and_their_svds(benchmark):
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
