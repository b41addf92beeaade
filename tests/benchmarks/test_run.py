"""The plan of a benchmark run, and its processes; what they measure is in test_bench.py."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import results
import run
import torch
import transformers
from steps import STEPS, Step

SUITE = Path(run.__file__).parent / "suite"
FACTS = {"device": "NVIDIA H200"}
GPU_MACHINE = sys.version_info[:2] == (3, 12) and torch.__version__ >= "2.11" and torch.__version__ < "2.12"


def rows_of(path):
    return json.loads(path.read_text())["rows"]


def seconds_of(test: ast.FunctionDef, device: str) -> float:
    """What its marker says that it takes."""
    marks = [one for one in test.decorator_list if isinstance(one, ast.Call) and one.func.attr == "seconds"]
    return max((word.value.value for one in marks for word in one.keywords if word.arg == device), default=0)


@pytest.fixture(scope="module")
def tests():
    """Every test of the suite, by file and name."""
    found = {}
    for file in SUITE.glob("*_*.py"):
        functions = [one for one in ast.parse(file.read_text()).body if isinstance(one, ast.FunctionDef)]
        found[file.name] = {one.name: one for one in functions if one.name.startswith("test_")}
    return found


def of_step(step: Step, tests) -> dict[str, ast.FunctionDef]:
    found = {}
    for name in step.tests:
        file, _, test = name.partition("::")
        found |= {test: tests[file][test]} if test else tests[file]
    return found


@pytest.mark.parametrize("device", STEPS)
def test_every_test_of_the_suite_is_in_a_step(device, tests):
    planned = {name for step in STEPS[device] for name in of_step(step, tests)}
    assert planned == {name for file in tests.values() for name in file}


@pytest.mark.parametrize(("device", "word"), [("cuda", "gpu"), ("cpu", "cpu")])
def test_no_test_is_said_to_take_longer_than_its_step(device, word, tests):
    for step in STEPS[device]:
        allowed = step.seconds(device)
        for name, test in of_step(step, tests).items():
            assert allowed is None or seconds_of(test, word) < allowed, (step.name, name)


def test_what_matters_fits_into_eight_minutes_of_a_gpu():
    assert sum(step.gpu for step in STEPS["cuda"][:9]) <= 450  # and half a minute for what comes last


def test_a_run_without_a_gpu_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def steps_as_commands(monkeypatch, tmp_path, **commands: str):
    """Run steps whose tests are commands of a shell; returns which passed, and their rows."""
    monkeypatch.setattr(run, "SHORTEST", 0.0)
    monkeypatch.setattr(run, "command_of", lambda step, _: ["sh", "-c", step.tests[0]])
    path = tmp_path / "gpu.json"
    results.start(path, FACTS)
    steps = [Step(name, (command,), 0.3, 0.3) for name, command in commands.items()]
    passed = run.run_steps([*steps, Step("far", ("true",), 5)], "cpu", path, time.time() + 60, [])
    return passed, rows_of(path)


def test_a_hang_costs_its_step_alone_and_leaves_no_process(monkeypatch, tmp_path):
    child = tmp_path / "pid"
    passed, rows = steps_as_commands(
        monkeypatch, tmp_path, hangs=f"sleep 50 & echo $! > {child}; wait", passes="true", fails="exit 1", ends="exit 3"
    )
    assert passed == [False, True, False, False]
    said = {row["name"]: (row["status"], row.get("message")) for row in rows}
    assert said == {
        "far": ("skipped", "needs a GPU"),
        "hangs": ("failed", f"ended in the midst of it: {results.NO_TIME}"),
        "passes": ("passed", None),
        "fails": ("failed", None),
        "ends": ("failed", "ended with code 3"),
    }
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] in "ZX"


def test_rows_that_were_written_stay_where_their_step_is_ended(monkeypatch, tmp_path):
    row = '{"group": "gram", "name": "d = 8", "status": "passed"}'
    add = f"import os, pathlib, results; results.add(pathlib.Path(os.environ['LINSCORE_RESULTS_FILE']), {row})"
    path = os.pathsep.join([str(SUITE.parent), *run.SOURCES])
    _, rows = steps_as_commands(monkeypatch, tmp_path, kept=f'sleep 0.1; PYTHONPATH={path} {sys.executable} -c "{add}"')
    assert [row["name"] for row in rows] == ["far", "kept"]


def test_steps_that_the_time_left_does_not_allow_are_recorded_as_skipped(tmp_path):
    path = tmp_path / "cpu.json"
    results.start(path, FACTS)
    assert run.run_steps(STEPS["cpu"][:2], "cpu", path, 0.0, []) == []
    assert [row["message"] for row in rows_of(path)] == [results.NO_TIME] * 2


@pytest.mark.slow
@pytest.mark.skipif(
    not (GPU_MACHINE and transformers.__version__.startswith("5.17")), reason="an environment like a GPU machine's"
)
def test_all_steps_run_where_nothing_can_be_installed(tmp_path):
    """Python 3.12, torch 2.11, transformers 5.17, from anywhere, with nothing on the path."""
    environment = os.environ | {"LINSCORE_BENCH_TINY": "1", "PYTHONPATH": ""}
    command = [sys.executable, run.__file__, "--device", "cpu", "--seconds", "240", "--out", str(tmp_path)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    rows = rows_of(next(tmp_path.glob("*.json")))
    assert not [row for row in rows if row["status"] == "failed"]
