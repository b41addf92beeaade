"""How far `linscore plan` is from what scores take: random models of a few shapes, each scored in a process of its own.

    python -m benchmarks.studies.plan_errors [--out FILE.md]

The peak is that of the process, less the peak of one that scores a tiny model: what Python, torch and transformers take
is no part of a plan.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, PreTrainedConfig

from linscore.embedded.shipped import EMBEDDED, SHIPPED
from linscore.jobs.plan import run_plan
from linscore.machine.versions import versions
from linscore.options.score import ScoreOptions
from linscore.options.text import TextOptions

TOKENS, MB = 4096, 1e6
COMMON = {"vocab_size": 4096, "max_position_embeddings": 512}
COMMAND = [sys.executable, "-c", "from linscore.cli import main; main()", "score"]


class Case(NamedTuple):
    """A shape, and how it is scored."""

    width: int
    depth: int
    dtype: torch.dtype = torch.bfloat16
    folds: int = 2
    batch_size: int = 8
    experts: int = 0

    def __str__(self) -> str:
        experts = f", {self.experts} experts" if self.experts else ""
        kind = str(self.dtype).removeprefix("torch.")
        folds = f"{self.folds} fold{'s' * (self.folds != 1)}"
        return f"{self.width} × {self.depth}{experts}, {kind}, {folds}, batches of {self.batch_size} × 512"

    def config(self) -> PreTrainedConfig:
        heads = {"num_attention_heads": max(1, self.width // 64), "num_key_value_heads": max(1, self.width // 64)}
        shape = {"hidden_size": self.width, "num_hidden_layers": self.depth, **heads, **COMMON}
        if self.experts:
            return MixtralConfig(intermediate_size=2 * self.width, num_local_experts=self.experts, **shape)
        return LlamaConfig(intermediate_size=4 * self.width, **shape)


TINY = Case(64, 2)
CASES = [
    Case(768, 12),
    Case(768, 12, torch.float32),
    Case(1024, 8, folds=1),
    Case(1024, 8, torch.float32),
    Case(2048, 4),
    Case(2048, 4, folds=1),
    Case(2048, 4, torch.float32, batch_size=1),
    Case(1024, 4, experts=8),
]


def save(case: Case, folder: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(case.config(), dtype=case.dtype, trust_remote_code=False).save_pretrained(folder)
    for file in SHIPPED[EMBEDDED].glob("tokenizer*"):
        shutil.copy(file, folder)


def scored(case: Case, model: Path, out: Path) -> tuple[float, float]:
    """Peak bytes and seconds of a process that scores a model."""
    options = ["--folds", str(case.folds), "--batch-size", str(case.batch_size), "--tokens", str(TOKENS)]
    began = time.perf_counter()
    with subprocess.Popen(
        [*COMMAND, str(model), "--out", str(out), "--json", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{case}: the score ended with exit code {process.returncode}")
    return 1024 * usage.ru_maxrss, time.perf_counter() - began


def measured(case: Case) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        model = Path(folder, "model")
        save(case, model)
        return scored(case, model, Path(folder, "out"))


def row(case: Case, base: tuple[float, float]) -> str:
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        model = Path(folder, "model")
        save(case, model)
        options = {"text": TextOptions(tokens=TOKENS, batch_size=case.batch_size)}
        plan = run_plan(str(model), scoring=ScoreOptions(folds=case.folds), **options)
        peak, seconds = (found - of for found, of in zip(scored(case, model, Path(folder, "out")), base, strict=True))
    whole, needs = plan.ways[0], plan.needs
    parts = " + ".join(f"{size / MB:,.0f}" for size in (needs.sizes.weights, needs.moments, needs.work))
    error = whole.device / peak - 1
    return (
        f"| {case} | {parts} | {whole.device / MB:,.0f} | {peak / MB:,.0f} | {error:+.1%} "
        f"| {whole.seconds:.0f} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    base = measured(TINY)
    where = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        f"{where}; {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; "
        f"{TOKENS:,} tokens; a process that scores a tiny model has {base[0] / MB:,.0f} MB and takes {base[1]:.0f} s.",
        "",
        "| blocks, how scored | weights + moments + work | planned, MB | measured, MB | error | planned, s | took, s |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for case in CASES:
        lines.append(row(case, base))
        print(lines[-1], flush=True)
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
