"""What an update of moments costs the host, on a machine without a GPU: kernels are not launched but counted.

    python -m benchmarks.studies.host_path

Everything else runs as it would beside a GPU: checks, operators, buffers. Triton's own time per launch, some 10 µs, and
the driver's are not in it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from itertools import product
from typing import Any

import torch
from linscore_kernels.second_moments import held_rows, token_stats_kernel, triton  # noqa: F401  (all kernels are defined)
from triton.runtime.jit import JITFunction

from linscore.machine.allocator import keep_freed_memory
from linscore.statistics.moments import Moments

ROWS, UPDATES, CAPABILITY = 8192, 300, 90
LAUNCHES: Counter[str] = Counter()


def count(kernel: JITFunction, *_args: Any, **_kwargs: Any) -> None:
    LAUNCHES[kernel.__name__] += 1


def count_product(out: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
    LAUNCHES["addmm_"] += 1
    return out


def measure(d: int, heavy: int) -> tuple[float, Counter[str]]:
    """Microseconds of CPU time of one update, and its launches."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(ROWS, d, generator=generator).bfloat16() for _ in range(2))
    moments = Moments(d, backend="triton")
    spent = []
    with torch.no_grad():  # as in the hooks of a score
        for _ in range(UPDATES):
            LAUNCHES.clear()
            began = time.process_time()
            moments.begin(x, y).settle(heavy)
            spent.append(time.process_time() - began)
    return 1e6 * statistics.median(spent), LAUNCHES + Counter()


def main() -> None:
    JITFunction.run = count  # type: ignore[method-assign]
    torch.Tensor.addmm_ = count_product  # type: ignore[method-assign]
    os.environ["TRITON_INTERPRET"] = "1"  # so that tensors of a CPU are taken; the kernels are defined already
    torch.set_num_threads(1)
    keep_freed_memory()  # as CUDA's allocator does
    triton.capability = token_stats_kernel.capability = lambda _tensor: CAPABILITY  # type: ignore[assignment]
    print(f"torch {torch.__version__}, {ROWS} rows, median of {UPDATES} updates")
    for d, heavy in product((768, 4096), (0, 32)):
        microseconds, launches = measure(d, heavy)
        print(f"d {d:4}, heavy rows {heavy:2}: {microseconds:6.1f} µs  {dict(launches)}")


if __name__ == "__main__":
    main()
