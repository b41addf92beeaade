"""A model scored block by block: in how much memory, how much slower than whole, and whether the bits are the same.

    python -m benchmarks.studies.streamed                 # 1.5 billion random weights in bfloat16: some minutes, 3.1 GB
    python -m benchmarks.studies.streamed --small         # the same at a twentieth of the size

`linscore score` runs in a process of its own, whole and by `--placement stream`; of its memory what is its own counts
(anonymous pages), sampled ten times a second. Where control groups can be made, it runs once more within less memory
than the weights take.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from linscore.embedded.shipped import EMBEDDED, SHIPPED

QWEN = {"vocab_size": 151_936, "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960}  # 1.5B
SMALL = {"vocab_size": 8192, "hidden_size": 512, "num_hidden_layers": 16, "intermediate_size": 3072}
SHAPE = {
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
LENGTH, BATCH = 512, 8
MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup")


class Run(NamedTuple):
    """One score: seconds in all and of collecting, MiB of its own memory at the peak, and its report."""

    seconds: float
    collect: float
    peak: float
    report: dict[str, Any]


def build(folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    """Save a random model with a tokenizer; MiB of all weights, of one block, and of what is in no block."""
    heads = SHAPE | ({} if sizes is QWEN else {"num_attention_heads": 8})
    config = AutoConfig.for_model("qwen2", **sizes, **heads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    model.save_pretrained(folder, max_shard_size="200MB" if sizes is QWEN else "20MB")  # files are mapped whole
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED[EMBEDDED] / name, folder)
    block = sum(p.nbytes for p in model.model.layers[0].parameters()) / MIB
    weights = sum(p.nbytes for p in model.parameters()) / MIB
    return {"weights": weights, "block": block, "outside": weights - block * len(model.model.layers)}


def scored(folder: Path, out: Path, tokens: int, *options: str, group: Path | None = None) -> Run:
    """`linscore score` of the folder, in a control group where one is given."""
    command = [sys.executable, "-m", "linscore", "score", str(folder), "--out", str(out), "--device", "cpu"]
    text = ["--tokens", str(tokens), "--seq-len", str(LENGTH), "--batch-size", str(BATCH)]
    enter = None if group is None else partial(_enter, group)
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([*command, *text, *options], preexec_fn=enter, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _own_memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"score {' '.join(options)} ended with {process.returncode}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Run(time.perf_counter() - started, report["seconds"]["collect"], peak, report)


@contextmanager
def bounded(size: float) -> Iterator[Path | None]:
    """A control group of at most so many MiB, the page cache included; None where none can be made."""
    for root, limit in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        group = root / f"linscore-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(int(size * MIB)), encoding="ascii")
        except OSError:
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def _own_memory(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)


def same(one: Run, other: Run) -> bool:
    """Whether two reports agree in every figure."""
    apart = ("run", "seconds", "moments_digest")
    return {k: v for k, v in one.report.items() if k not in apart} == {
        k: v for k, v in other.report.items() if k not in apart
    }


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tokens", type=int, default=8192)
    asked = parser.parse_args()
    sizes = SMALL if asked.small else QWEN
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        found = build(folder, sizes)
        base = scored(Path(EMBEDDED), Path(scratch, "base"), 2048).peak
        states = asked.tokens * sizes["hidden_size"] * 2 / MIB
        moments = (sizes["num_hidden_layers"] + 1) * 2 * 16 * sizes["hidden_size"] ** 2 / MIB
        sizes_of = (
            f"weights {found['weights']:,.0f} MiB, a block {found['block']:,.0f}, outside {found['outside']:,.0f}"
        )
        print(f"{sizes_of}; states {states:,.0f}, moments {moments:,.0f}; the built-in decoder {base:,.0f}", flush=True)
        stream = ("--placement", "stream", "--scratch", scratch)
        whole = scored(folder, Path(scratch, "whole"), asked.tokens, "--placement", "whole")
        tell("whole", whole, whole, base, found)
        ours = scored(folder, Path(scratch, "stream"), asked.tokens, *stream)
        tell("stream", ours, whole, base, found)
        limit = base + found["outside"] + max(0.25 * found["weights"], 128)  # a batch takes some, too
        with bounded(limit) as group:
            if group is not None:
                within = scored(folder, Path(scratch, "bounded"), asked.tokens, *stream, group=group)
                tell(f"stream within {limit:,.0f} MiB", within, whole, base, found)
        print(f"stream / whole: {ours.collect / whole.collect:.2f} in time of collecting; {os.cpu_count()} cores")


def tell(name: str, run: Run, whole: Run, base: float, sizes: dict[str, float]) -> None:
    """Print one run, beside the whole one."""
    over = run.peak - base
    print(
        f"{name}: {run.seconds:.1f} s, collecting {run.collect:.1f}; {run.peak:,.0f} MiB, {over:,.0f} more than the "
        f"built-in decoder takes, of which {over / sizes['block']:.2f} blocks; same report: {same(run, whole)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
