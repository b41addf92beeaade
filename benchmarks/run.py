"""Check the kernels, measure everything, draw the curves: `make bench` and `make bench-gpu`.

    python benchmarks/run.py --device cuda [--seconds 520] [pytest options]

Each file runs in a process of its own, because a CUDA error spoils its whole process: the others still measure.
Results go to benchmarks/results, or to $LINSCORE_RESULTS. Exit code: 0; 1 where a check or a benchmark failed; 2
without a GPU to measure.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import results
import torch

HERE = Path(__file__).resolve().parent
FILES = {  # what matters most there comes first
    "cuda": (
        "check_kernels.py",
        "bench_kernels.py",
        "bench_layer_loss.py",
        "bench_training.py",
        "bench_score.py",
        "bench_growth.py",
        "bench_pair.py",
    ),
    "cpu": (
        "check_kernels.py",
        "bench_pair.py",
        "bench_score.py",
        "bench_growth.py",
        "bench_layer_loss.py",
        "bench_training.py",
        "bench_kernels.py",
    ),
}
SHORTEST = 15.0  # seconds: what a file needs to start and do anything at all
NOTHING_SELECTED = 5  # pytest's exit code where -k leaves no test


def main(arguments: list[str] | None = None) -> int:
    """Run all files within the time; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--seconds", type=float, default=520.0, help="what does not fit is skipped, and said so")
    options, extra = parser.parse_known_args(arguments)
    deadline = time.time() + options.seconds
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        print("bench-gpu: no CUDA device answers, so there is nothing to measure", file=sys.stderr)
        return 2
    found = results.facts()
    path = Path(os.environ.get("LINSCORE_RESULTS") or HERE / "results") / f"{results.file_name(found['device'])}.json"
    results.start(path, found)
    passed = [run_file(file, path, deadline, extra) for file in FILES[options.device]]
    if importlib.util.find_spec("matplotlib"):
        passed.append(subprocess.run([sys.executable, str(HERE / "plot.py"), str(path)], check=False).returncode == 0)
    print(f"{path}\n{path.with_suffix('.md')}")
    return 0 if all(passed) else 1


def run_file(file: str, path: Path, deadline: float, extra: list[str]) -> bool:
    """Run one file, its rows going to `path`; whether all of it passed."""
    left = deadline - time.time()
    if left < SHORTEST:
        results.add(path, {"group": "not run", "name": file, "status": "skipped", "message": results.NO_TIME})
        return True
    environment = os.environ | {"LINSCORE_RESULTS_FILE": str(path.resolve()), "LINSCORE_BENCH_DEADLINE": str(deadline)}
    command = [sys.executable, "-m", "pytest", str(HERE / "suite" / file), "-p", "no:cacheprovider", *extra]
    try:
        code = subprocess.run(command, env=environment, timeout=left, check=False).returncode
        message = f"ended with code {code}"
    except subprocess.TimeoutExpired:
        code, message = 1, f"stopped in the midst of it: {results.NO_TIME}"
        results.add(path, {"group": "not run", "name": file, "status": "failed", "message": message})
    if code not in (0, 1, NOTHING_SELECTED):
        results.add(path, {"group": "not run", "name": file, "status": "failed", "message": message})
    return code in (0, NOTHING_SELECTED)


if __name__ == "__main__":
    sys.exit(main())
