"""Each kernel against plain torch and its physical floor, then torch.compile; cases: linscore.machine.kernel_cases."""

from dataclasses import replace

import pytest
import torch
from measure import compare_case
from shapes import DEVICE, SHAPES

from linscore.machine.kernel_cases import (
    COMPILED,
    FLASH_MUON,
    QUACK,
    accumulate_case,
    centered_gram_case,
    gram_case,
    residual_norms_case,
    token_stats_case,
)
from linscore.machine.timing import clock

ON_GPU = DEVICE.type == "cuda"
WIDTHS, TOKENS, DTYPE = SHAPES.widths, SHAPES.tokens, SHAPES.dtype
FEW = WIDTHS[:2] if ON_GPU else WIDTHS[:1]
ENDS = WIDTHS if ON_GPU else (WIDTHS[0], WIDTHS[-1])  # a CPU has no time for all of them
CASES = (gram_case, centered_gram_case, token_stats_case, residual_norms_case)
GROUP = "kernels"
pytestmark = pytest.mark.benchmark(timer=clock)


@pytest.mark.seconds(gpu=5, cpu=15)
@pytest.mark.parametrize("d", WIDTHS)
def test_gram(benchmark, d):
    benchmark.group = "gram"
    compare_case(benchmark, gram_case(d, TOKENS, DTYPE, DEVICE), d, TOKENS, DTYPE)


@pytest.mark.seconds(gpu=4, cpu=10)
@pytest.mark.parametrize("d", ENDS)
def test_token_stats(benchmark, d):
    benchmark.group = "token_stats"
    compare_case(benchmark, token_stats_case(d, TOKENS, DTYPE, DEVICE), d, TOKENS, DTYPE)


@pytest.mark.seconds(gpu=4, cpu=15)
@pytest.mark.parametrize("d", ENDS)
def test_residual_norms(benchmark, d):
    benchmark.group = "residual_norms"
    compare_case(benchmark, residual_norms_case(d, TOKENS, DTYPE, DEVICE), d, TOKENS, DTYPE)


@pytest.mark.seconds(gpu=6, cpu=15)
@pytest.mark.parametrize("d", FEW)
def test_exact_gram(benchmark, d):
    """The exact path beside the fast one, in the same rounds."""
    benchmark.group = "gram, exact"
    case = gram_case(d, TOKENS, DTYPE, DEVICE, precision="exact")
    case.peers["our fast path"] = gram_case(d, TOKENS, DTYPE, DEVICE).ours
    compare_case(benchmark, case, d, TOKENS, DTYPE)


@pytest.mark.seconds(gpu=4, cpu=15)
@pytest.mark.parametrize("d", WIDTHS)
def test_accumulate(benchmark, d):
    """All that scoring does with a block's states, from x and y to the float64 sums, beside the bare products."""
    benchmark.group = "accumulate"
    compare_case(benchmark, accumulate_case(d, TOKENS, DTYPE, DEVICE), d, TOKENS, DTYPE)


@pytest.mark.seconds(gpu=6, cpu=20)
@pytest.mark.parametrize("d", FEW)
def test_centered_gram(benchmark, d):
    benchmark.group = "centered_gram"
    compare_case(benchmark, centered_gram_case(d, TOKENS, DTYPE, DEVICE), d, TOKENS, DTYPE)


@pytest.mark.seconds(gpu=5, cpu=0)
@pytest.mark.skipif(not ON_GPU, reason="float32 is what the CPU is measured in throughout")
def test_gram_of_float32_states(benchmark):
    """Three 16-bit products in place of float32 ones."""
    benchmark.group = "gram, float32 states"
    case = gram_case(WIDTHS[0], TOKENS, torch.float32, DEVICE)
    compare_case(benchmark, case, WIDTHS[0], TOKENS, torch.float32)


@pytest.mark.seconds(gpu=20, cpu=40)
@pytest.mark.parametrize("d", FEW)
@pytest.mark.parametrize("build", CASES if ON_GPU else CASES[:1], ids=lambda build: build.__name__)
def test_torch_compile(benchmark, build, d):
    """What compilers make of the formula, and symmetric products of others, apart: they take long, and may hang."""
    case = build(d, TOKENS, DTYPE, DEVICE, compiled=True)
    benchmark.group = f"{case.kernel}, torch.compile"
    peers = {name: peer for name, peer in case.peers.items() if name in (COMPILED, QUACK, FLASH_MUON)}
    compare_case(benchmark, replace(case, peers=peers), d, TOKENS, DTYPE)
