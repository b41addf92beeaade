"""How time grows with tokens and with blocks, and that memory does not grow; growth in d is read off bench_kernels.

plot.py draws the curves.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from llamas import FORWARD, batches, build, collect, forward, least_seconds
from measure import add_floor, compare, compare_case
from shapes import DEVICE, SHAPES, LlamaShape

import linscore
from linscore.machine.allocator import keep_freed_memory
from linscore.machine.kernel_cases import accumulate_case
from linscore.machine.timing import clock

GROUP = "growth"
pytestmark = pytest.mark.benchmark(timer=clock)


@pytest.mark.seconds(gpu=3, cpu=10)
@pytest.mark.parametrize("tokens", SHAPES.growth[1])
def test_growth_in_tokens(benchmark, tokens):
    benchmark.group = "growth in tokens"
    d = SHAPES.growth[0]
    compare_case(benchmark, accumulate_case(d, tokens, SHAPES.dtype, DEVICE), d, tokens, SHAPES.dtype, rounds=5)


@pytest.mark.seconds(gpu=4, cpu=15)
@pytest.mark.parametrize("blocks", SHAPES.depths)
def test_growth_in_blocks(benchmark, blocks):
    """Collecting the moments of every block of a decoder, beside its plain forward pass."""
    benchmark.group = "growth in blocks"
    shape = SHAPES.deep
    model, text = build(shape, SHAPES.dtype, blocks), batches(shape)
    timing = compare(
        benchmark,
        lambda: collect(model, text),
        {FORWARD: lambda: forward(model, text)},
        shape=f"{blocks} blocks, {shape.name}, {shape.tokens:,} tokens",
        dtype=SHAPES.dtype,
        rounds=5,
        blocks=blocks,
        decoder=f"{shape.name}, {shape.tokens:,} tokens",
    )
    add_floor(benchmark, least_seconds(shape, SHAPES.dtype, blocks, timing.peer_median(FORWARD)))


def resident_memory(tokens: int) -> int:
    """Peak resident set in KiB of a process that scores `tokens` tokens."""
    code = f"from bench_growth import score_tokens; score_tokens({tokens})"
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    return int(run.stdout)


def score_tokens(tokens: int) -> None:
    keep_freed_memory()  # as on the command line
    torch.manual_seed(0)
    model = build(LlamaShape("d = 128", 128, 352, 4, 8, 8), torch.float32)
    text = (torch.randint(1000, (8, 512)) for _ in range(-(-tokens // 4096)))
    linscore.score(model, text)
    # Not ru_maxrss, which a child inherits from the process that started it.
    status = Path("/proc/self/status").read_text()
    print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.seconds(gpu=0, cpu=80)
@pytest.mark.skipif(
    DEVICE.type == "cuda", reason="resident memory says little about a GPU; its peak is measured with the whole job"
)
def test_peak_memory_of_a_million_tokens(benchmark):
    benchmark.group = "peak memory"
    few, many = SHAPES.memory
    peaks: dict[int, int] = {}

    def run() -> None:
        peaks.update({tokens: resident_memory(tokens) for tokens in (few, many)})

    benchmark.pedantic(run, rounds=1)
    figures = {f"peak MiB at {tokens:,} tokens": peak // 1024 for tokens, peak in peaks.items()}
    benchmark.extra_info |= {
        "shape": f"{many:,} tokens and {few:,}, d = 128, 4 blocks",
        "figures": figures | {"ratio": peaks[many] / peaks[few]},
    }
