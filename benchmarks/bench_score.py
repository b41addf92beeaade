"""The whole job against the plain forward pass, on a random Llama with d = 512 and 8 blocks, 16k tokens."""

import subprocess
import sys
from pathlib import Path

import torch
from peers import compare
from transformers import LlamaConfig, LlamaForCausalLM

import linscore
from linscore.allocator import keep_freed_memory


def llama(d: int = 512, blocks: int = 8) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=d,
        intermediate_size=1376,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config).eval()


def test_scoring_against_the_plain_forward_pass(benchmark):
    model = llama()
    batches = list(torch.randint(1000, (32, 512), generator=torch.Generator().manual_seed(0)).split(8))

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                model.model(input_ids=batch, use_cache=False)

    compare(benchmark, lambda: linscore.score(model, batches), {"forward without LM head": forward}, rounds=7)


def peak_memory(tokens: int) -> int:
    """Peak resident set in KiB of a process that scores `tokens` tokens."""
    code = f"from bench_score import score_tokens; score_tokens({tokens})"
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
    return int(run.stdout)


def score_tokens(tokens: int) -> None:
    keep_freed_memory()  # as on the command line
    torch.manual_seed(0)
    model = llama(d=128, blocks=4)
    batches = (torch.randint(1000, (8, 512)) for _ in range(-(-tokens // 4096)))
    linscore.score(model, batches)
    # Not ru_maxrss, which a child inherits from the process that started it.
    status = Path("/proc/self/status").read_text()
    print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def test_peak_memory_of_a_million_tokens(benchmark):
    peaks: dict[int, int] = {}

    def run() -> None:
        peaks.update({tokens: peak_memory(tokens) for tokens in (50_000, 1_000_000)})

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["peak MiB at 50,000 tokens"] = peaks[50_000] // 1024
    benchmark.extra_info["peak MiB at 1,000,000 tokens"] = peaks[1_000_000] // 1024
    benchmark.extra_info["ratio"] = round(peaks[1_000_000] / peaks[50_000], 4)
