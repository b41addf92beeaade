"""Check the kernels, measure everything, draw the curves: `make bench` and `make bench-gpu`.

    python benchmarks/run.py --device cuda [--seconds 480] [--out DIR] [pytest options]

Each step of `steps.py` runs in a process of its own, because a CUDA error spoils its whole process, and is ended when
its time is over: a hang costs that step alone. Rows are written as they come. A copy of the sources will do, with
nothing installed but torch, transformers, Triton and pytest-benchmark. Exit code: 0; 1 where a check or a benchmark
failed; 2 without a GPU to measure.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = [str(HERE.parent), str(HERE.parent / "kernels")]
sys.path[:0] = [str(HERE), *SOURCES]

import results  # noqa: E402
import torch  # noqa: E402
from steps import STEPS, Step  # noqa: E402

SHORTEST = 10.0  # seconds: what a step needs to start and do anything at all
NOTHING_SELECTED = 5  # pytest's exit code where -k leaves no test
TINY = bool(os.environ.get("LINSCORE_BENCH_TINY"))


def main(arguments: list[str] | None = None) -> int:
    """Run all steps within the time; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", choices=tuple(STEPS), required=True)
    parser.add_argument("--seconds", type=float, default=480.0, help="what does not fit is skipped, and said so")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR", help="where the results go")
    options, extra = parser.parse_known_args(arguments)
    deadline = time.time() + options.seconds
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        print("bench-gpu: no CUDA device answers, so there is nothing to measure", file=sys.stderr)
        return 2
    found = results.facts()
    path = options.out.resolve() / f"{results.file_name(found['device'])}.json"
    results.start(path, found)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step in progress is ended, too
    passed = run_steps(STEPS[options.device], options.device, path, deadline, extra)
    if importlib.util.find_spec("matplotlib"):
        passed.append(subprocess.run([sys.executable, str(HERE / "plot.py"), str(path)], check=False).returncode == 0)
    print(f"{path}\n{path.with_suffix('.md')}")
    return 0 if all(passed) else 1


def run_steps(steps: Sequence[Step], device: str, path: Path, deadline: float, extra: list[str]) -> list[bool]:
    """Run steps one after the other, their rows going to `path`, and one that says how each ended; which passed.

    Beside a GPU the next step's process imports what it needs meanwhile, some six seconds of each.
    """
    left = [step for step in steps if step.seconds(device) is not None]
    for step in steps:
        if step not in left:
            results.add(path, _row(step, "skipped", "needs a GPU"))
    ahead, waiting, passed = device == "cuda" or TINY, deque[Process](), []
    try:
        for place, step in enumerate(left):
            if deadline - time.time() < SHORTEST:
                results.add(path, _row(step, "skipped", results.NO_TIME))
                continue
            process = waiting.popleft() if waiting else Process(step, path, extra)
            process.go(min(deadline, time.time() + (step.seconds(device) or 0)))
            waiting.extend(Process(later, path, extra) for later in left[place + 1 : place + 2] if ahead)
            row = process.row()
            results.add(path, row)
            passed.append(row["status"] == "passed")
    finally:
        for process in waiting:
            process.end()
    return passed


def _row(step: Step, status: str, message: str = "", **figures: float) -> results.Row:
    row: results.Row = {"group": "steps", "name": step.name, "status": status}
    return row | ({"message": message} if message else {}) | ({"figures": figures} if figures else {})


def command_of(step: Step, extra: list[str]) -> list[str]:
    """What runs a step, with more options of pytest."""
    tests = [str(HERE / "suite" / test) for test in step.tests]
    options = ["-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin", "-m", step.marked, *extra]
    return [sys.executable, "-m", "pytest", *tests, *options]


class Process:
    """One step: it imports at once, and runs its tests when it is told how long it may."""

    def __init__(self, step: Step, path: Path, extra: list[str]) -> None:
        self.step, self.path = step, path
        told, self._tell = os.pipe()
        sources = os.pathsep.join([*SOURCES, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        environment = os.environ | {
            "PYTHONPATH": sources,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # some that happen to be there take seconds to import
            "LINSCORE_RESULTS_FILE": str(path),
            "LINSCORE_BENCH_TOLD": str(told),
        }
        self._process = subprocess.Popen(
            command_of(step, extra), env=environment, pass_fds=[told], preexec_fn=os.setpgrp
        )
        os.close(told)

    def go(self, deadline: float) -> None:
        """Let it run until the Unix time `deadline`."""
        self._started, self._deadline = time.time(), deadline
        with suppress(BrokenPipeError):  # it has failed already
            os.write(self._tell, str(deadline).encode())
        os.close(self._tell)

    def row(self) -> results.Row:
        """How it ended, by itself or at its deadline."""
        try:
            code = self._process.wait(self._deadline - time.time())
        except subprocess.TimeoutExpired:
            code = None
        finally:
            self.end()
        figures = {"seconds": time.time() - self._started, "allowed": self._deadline - self._started}
        if code is None:
            return _row(self.step, "failed", f"ended in the midst of it: {results.NO_TIME}", **figures)
        message = "" if code in (0, 1, NOTHING_SELECTED) else f"ended with code {code}"
        return _row(self.step, "passed" if code in (0, NOTHING_SELECTED) else "failed", message, **figures)

    def end(self) -> None:
        """Kill it with all that it has started, unless it has ended by itself."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for part in self.path.parent.glob(f"{self.path.stem}.*.part"):  # a row may just have been written
            part.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
