"""`Moments.update` as a library calls it, against the two plain products `x.T @ x, x.T @ (y − x)`.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.updates [--widths 768,2048] [--tokens 1024,16384,65536]
        [--dtype bfloat16]

In turns, ours and theirs, memory as glibc leaves it. Times are CPU seconds of the process: on one thread other work on
the machine hardly moves them. "first" is the update of new moments, pilot and sums included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from linscore import Moments
from linscore.machine.kernel_cases import random_states

ROUNDS = 7
SAMPLE_FLOP = 1e10  # of the two plain products in one sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--widths", default="768,2048")
    parser.add_argument("--tokens", default="1024,16384,65536")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print("width  tokens  update ms  plain ms  plain / update  plain / first")
    for d in map(int, options.widths.split(",")):
        for tokens in map(int, options.tokens.split(",")):
            print(row(d, tokens, getattr(torch, options.dtype)), flush=True)


def row(d: int, tokens: int, dtype: torch.dtype) -> str:
    x, y = random_states(d, tokens, dtype, torch.device("cpu"))
    wide_x, wide_y = x.float(), y.float()  # the plain products are float32 ones whatever is stored
    moments = Moments(d)
    functions: list[Callable[[], Any]] = [
        lambda: moments.update(x, y),
        lambda: (wide_x.T @ wide_x, wide_x.T @ (wide_y - wide_x)),
        lambda: Moments(d).update(x, y),
    ]
    calls = max(1, round(SAMPLE_FLOP / (4 * d**2 * tokens)))
    for function in functions:
        function()
    rounds = [[seconds(function, calls) for function in functions] for _ in range(ROUNDS)]
    ours, plain = (1e3 * statistics.median(times[i] for times in rounds) for i in (0, 1))
    ratio, first = (statistics.median(times[1] / times[i] for times in rounds) for i in (0, 2))
    return f"{d:5} {tokens:7} {ours:10.1f} {plain:9.1f} {ratio:15.2f} {first:14.2f}"


def seconds(function: Callable[[], Any], calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - started) / calls


if __name__ == "__main__":
    main()
