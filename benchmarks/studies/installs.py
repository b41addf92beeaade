"""The wheel in empty environments, as people install it: does a score run, and how long does it take to come there?

    python -m benchmarks.studies.installs dist/linscore-0.1.0-py3-none-any.whl [--by pip uv pipx]
        [--python python3.10 …] [--beside torchmetrics peft …]

For each installer and interpreter: an environment with nothing in it, the wheel with what it depends on (from whatever
index the installer is set up with), and what stands beside it; then `linscore score` of the built-in decoder. Needs uv
and pipx beside the Python that runs this, where they are asked for: `make package` has both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TOOLS = Path(sys.executable).parent
VERSIONS = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('torch', 'transformers')))"
SCORE = ("score", "--tokens", "2048", "--device", "cpu", "--out", "scored")
Installer = Callable[
    [Path, str, Sequence[str]], Path
]  # (empty folder, interpreter, what is asked for) → the bin folder


def by_pip(folder: Path, python: str, wanted: Sequence[str]) -> Path:
    """`python -m venv`, then the environment's own pip."""
    _run(python, "-m", "venv", folder / "env")
    _run(folder / "env/bin/python", "-m", "pip", "install", "--quiet", *wanted)
    return folder / "env/bin"


def by_uv(folder: Path, python: str, wanted: Sequence[str]) -> Path:
    """`uv venv`, `uv pip install`."""
    _run(TOOLS / "uv", "venv", "--quiet", "--python", python, folder / "env")
    _run(TOOLS / "uv", "pip", "install", "--quiet", "--python", folder / "env/bin/python", *wanted)
    return folder / "env/bin"


def by_pipx(folder: Path, python: str, wanted: Sequence[str]) -> Path:
    """`pipx install`, and `pipx inject` for what stands beside."""
    home = {"PIPX_HOME": str(folder / "pipx"), "PIPX_BIN_DIR": str(folder / "bin")}
    _run(TOOLS / "pipx", "install", "--quiet", "--python", python, wanted[0], **home)
    if wanted[1:]:
        _run(TOOLS / "pipx", "inject", "--quiet", "linscore", *wanted[1:], **home)
    assert (folder / "bin/linscore").exists()
    return folder / "pipx/venvs/linscore/bin"


INSTALLERS: dict[str, Installer] = {"pip": by_pip, "uv": by_uv, "pipx": by_pipx}


def trial(installer: Installer, python: str, wanted: Sequence[str]) -> str:
    """One line: seconds to install, seconds of the score, what was installed; raises where either fails."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.perf_counter()
        found = installer(folder, python, wanted)
        installed = time.perf_counter()
        _run(found / "linscore", *SCORE, cwd=folder)
        scored = time.perf_counter()
        assert (folder / "scored/report.json").stat().st_size
        versions = _run(found / "python", "-c", VERSIONS).strip()
        return f"installed in {installed - start:.0f} s, scored in {scored - installed:.0f} s, {versions}"


def _run(*command: object, cwd: Path | None = None, **variables: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=inherited | variables)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--by", nargs="+", choices=list(INSTALLERS), default=list(INSTALLERS))
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--beside", nargs="+", default=[])
    given = parser.parse_args()
    for python in given.python:
        for name in given.by:
            line = trial(INSTALLERS[name], python, [str(given.wheel.resolve()), *given.beside])
            print(f"{name:5} {python}: {line}", flush=True)


if __name__ == "__main__":
    main()
