"""What is measured where: sizes for a GPU, for a CPU, and tiny ones that try every path in seconds.

LINSCORE_BENCH_TINY=1 takes the tiny ones on either device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

TINY = bool(os.environ.get("LINSCORE_BENCH_TINY"))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class LlamaShape:
    """A Llama with random weights and the text that is scored with it."""

    name: str
    width: int
    inner: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int = 1000
    sequence: int = 2048
    sequences: int = 32
    batch: int = 8

    @property
    def tokens(self) -> int:
        return self.sequences * self.sequence


LLAMA_8B = LlamaShape("Llama-3-8B shape", 4096, 14336, 32, 32, 8, 128256)
LLAMA_1B = LlamaShape("Llama-3.2-1B shape", 2048, 8192, 16, 32, 8, 128256)
LLAMA_50M = LlamaShape("50M shape", 768, 2048, 7, 12, 12, sequences=6, batch=2)
LLAMA_25M = LlamaShape("25M shape, d = 512", 512, 1376, 8, 8, 8, sequence=512, sequences=32)
TINY_LLAMA = LlamaShape("tiny shape", 64, 96, 3, 4, 2, 128, sequence=32, sequences=8, batch=4)


@dataclass(frozen=True)
class Shapes:
    """Everything that differs between devices; of several sizes the one that matters most comes first."""

    dtype: torch.dtype
    tokens: int
    widths: tuple[int, ...]
    checked: tuple[tuple[int, int], ...]  # (d, tokens): ragged ones, and the largest
    further: tuple[tuple[int, int], ...]  # checked where time is left
    long_sum: int  # tokens in one sum of positive terms
    pair: tuple[int, int]  # (d, tokens) of one pair of states in float32
    growth: tuple[int, tuple[int, ...]]  # d, tokens
    depths: tuple[int, ...]  # blocks
    deep: LlamaShape  # whose depth is varied
    decoders: tuple[LlamaShape, ...]
    hidden_states: LlamaShape  # of the peer that keeps all hidden states and takes SVDs
    tuned: tuple[int, ...] = (768, 2048, 4096)
    memory: tuple[int, int] = (50_000, 1_000_000)  # tokens whose peak memory is compared


_GPU = Shapes(
    dtype=torch.bfloat16,
    tokens=65_536,
    widths=(4096, 2048, 768, 8192),
    checked=((100, 4099), (4096, 8269)),
    further=((32, 1000), (768, 16_384), (1000, 5001), (2048, 8192)),
    long_sum=16_384,
    pair=(768, 65_536),
    growth=(2048, (1024, 4096, 16_384, 65_536, 262_144, 1_048_576)),
    depths=(4, 8, 16, 32),
    deep=LlamaShape("d = 1024", 1024, 2816, 32, 16, 16, sequences=16),
    decoders=(LLAMA_8B, LLAMA_1B),
    hidden_states=LLAMA_1B,
)
_CPU = Shapes(
    dtype=torch.float32,
    tokens=16_384,
    widths=(768, 256, 1024, 2048),
    checked=((100, 4099), (768, 5001)),
    further=((32, 1000),),
    long_sum=16_384,
    pair=(768, 65_536),
    growth=(768, (1024, 4096, 16_384, 65_536)),
    depths=(2, 4, 8),
    deep=LlamaShape("d = 256", 256, 704, 8, 4, 4, sequence=512, sequences=16),
    decoders=(LLAMA_50M, LLAMA_25M),
    hidden_states=LLAMA_50M,
)
_TINY = Shapes(
    dtype=torch.bfloat16,
    tokens=1024,
    widths=(64, 32),
    checked=((50, 333),),
    further=((32, 100),),
    long_sum=1024,
    pair=(32, 1024),
    growth=(32, (256, 512, 1024)),
    depths=(2, 3),
    deep=TINY_LLAMA,
    decoders=(TINY_LLAMA,),
    hidden_states=TINY_LLAMA,
    memory=(4096, 8192),
)
SHAPES = _TINY if TINY else {"cuda": _GPU, "cpu": _CPU}[DEVICE.type]
