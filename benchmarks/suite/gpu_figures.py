"""What is measured of a whole job on a GPU beside its time: memory, equal bits, solves, and where the time goes."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from llamas import Text, collect, forward
from shapes import DEVICE, LlamaShape
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from linscore import Collector, Moments, block_metrics, find_decoder
from linscore.machine.timing import clock

SOLVE_PATIENCE = 10.0  # seconds
OURS = re.compile(r"_[a-z]\w*_kernel")  # Triton keeps the Python name; torch's kernels have C++ ones


def peak_memory(model: nn.Module, text: Text) -> dict[str, float]:
    """Peak of what torch has allocated, weights included."""
    peaks = {}
    for name, job in (("forward", forward), ("scoring", collect)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        job(model, text)
        peaks[f"peak GiB, {name}"] = torch.cuda.max_memory_allocated() / 2**30
    return peaks


def equal_bits(model: nn.Module, text: Text) -> dict[str, bool]:
    """Whether two runs agree to the last bit."""
    moments, again = collect(model, text), collect(model, text)
    return {"two runs equal in every bit": all(same_bits(moments[name], again[name]) for name in moments)}


def solves(model: nn.Module, text: Text, shape: LlamaShape) -> dict[str, float]:
    """What the solves of all blocks cost beside collecting a million tokens."""
    collect(model, text)  # kernels are compiled
    started = clock()
    moments = collect(model, text)
    million = 1e6 * (clock() - started) / shape.tokens
    seconds, solved = solve(moments, shape.blocks)
    started = clock()
    block_metrics(moments["block.0"], spectra=True)
    return {
        "solves, seconds": seconds,
        "blocks solved": solved,
        "1M tokens collected, seconds at the measured rate": million,
        "solves of all blocks / 1M tokens, at the measured rates": seconds / solved * shape.blocks / million,
        "block 0 with spectra, seconds": clock() - started,
    }


def solves_in_batches(d: int, matrices: int = 8) -> dict[str, float]:
    """How many times as fast one call for all is as a call for each, and the host as this device; float64."""
    rows = torch.randn(matrices, d, 2 * d, dtype=torch.float64, device=DEVICE)
    given, figures = rows @ rows.mT, {}
    for name, solved in (("Cholesky", torch.linalg.cholesky), ("eigenvalues", torch.linalg.eigvalsh)):
        solved(given), solved(given[0])
        began = clock()
        solved(given)
        middle = clock()
        for one in given:
            solved(one)
        each = clock() - middle
        here = given[0].cpu()
        began_here = clock()
        solved(here)
        figures[f"{name}, d = {d}: ms of one"] = 1e3 * each / matrices
        figures[f"{name}, d = {d}: batch of {matrices}, times as fast"] = each / (middle - began)
        figures[f"{name}, d = {d}: host, times as fast"] = each / matrices / (clock() - began_here)
    return figures


def same_bits(one: Moments, other: Moments) -> bool:
    """Whether all sums are equal, those of heavy rows among them."""
    cells = zip([*one.light, *one.heavy], [*other.light, *other.heavy], strict=True)
    return all(
        (a is None) == (b is None) and (a is None or all(map(torch.equal, vars(a).values(), vars(b).values())))
        for a, b in cells
    )


def solve(moments: dict[str, Moments], blocks: int) -> tuple[float, int]:
    """Seconds, and how many blocks were solved in them: as many as patience allows."""
    started = clock()
    for index in range(blocks):
        after = moments.get(f"block.{index + 1}") or moments[f"state.{index + 1}"]
        block_metrics(moments[f"block.{index}"], after=after, spectra=False)
        if clock() - started > SOLVE_PATIENCE:
            break
    return clock() - started, index + 1


def device_shares(model: nn.Module, text: Text, batch_seconds: float) -> dict[str, float]:
    """Shares of the GPU's busy time in one batch, and how much of `batch_seconds`, its wall time, that is."""
    collector = Collector(find_decoder(model))
    collector.add(text[0])  # the accumulators are made, and the kernels compiled
    plain = device_seconds(lambda: forward(model, text[:1]))
    scoring = device_seconds(lambda: collector.add(text[0]))
    busy, model_seconds = sum(scoring.values()), sum(plain.values())
    if not busy:
        return {"the profiler saw no kernels": True}
    ours = {name: seconds for name, seconds in scoring.items() if OURS.match(name)}
    rest = busy - model_seconds - sum(ours.values())
    shares = {"the model's own kernels": model_seconds, **ours, "everything else": rest}
    found = {f"share of {name}": seconds / busy for name, seconds in shares.items()}
    return found | {"GPU busy while scoring": busy / batch_seconds}


def device_seconds(function: Callable[[], object]) -> dict[str, float]:
    """Seconds on the GPU by kernel name."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        clock()
    events = [event for event in profiler.key_averages() if event.device_type is DeviceType.CUDA]
    return {event.key: event.self_device_time_total / 1e6 for event in events}
