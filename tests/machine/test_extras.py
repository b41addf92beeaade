"""What only some jobs need: asked for in one line before they begin, and declared by pyproject.toml as by the code."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import linscore
from linscore import LinscoreError
from linscore.machine import doctor
from linscore.machine.extras import EXTRAS, need, package
from linscore.text.records import read_dataset_rows, read_rows
from linscore.text.source import Source

ROOT = Path(linscore.__file__).parents[1]


def declared() -> tuple[set[str], dict[str, set[str]]]:
    """Packages of pyproject.toml, without versions: those of every installation, and those of each extra."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements):
        return {re.split("[>;]", one)[0] for one in requirements}

    return names(project["dependencies"]), {key: names(one) for key, one in project["optional-dependencies"].items()}


def imported() -> set[str]:
    """The modules that linscore imports anywhere."""
    found = set()
    for path in [*(ROOT / "linscore").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"linscore", "linscore_kernels", "_typeshed"}  # the last for mypy alone


def test_pyproject_has_the_same_extras_and_all_of_them_in_one():
    _, extras = declared()
    whole, dev, _docs = extras.pop("all"), extras.pop("dev"), extras.pop("docs")
    assert extras == {extra: set(map(package, modules)) for extra, modules in EXTRAS.items()}
    assert whole == {f"linscore[{','.join(extras)}]"}
    assert "linscore[all]" in dev


def test_what_is_imported_is_declared_either_for_all_or_for_some():
    always, extras = declared()
    of_extras = {name for extra in EXTRAS for name in extras[extra]}
    assert {"pyyaml" if module == "yaml" else package(module) for module in imported()} == always | of_extras
    assert not always & of_extras


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> dict[str, tuple[int, str, str]]:
    """What each command of `ANSWERS` and `score` end with where no extra is installed: code, output and error."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "folder").mkdir()
    for name in ("data.jsonl", "folder/rows.parquet", "folder/words.txt"):
        (folder / name).write_text('{"text": "words", "label": 1}\n')
    gone = {module for modules in EXTRAS.values() for module in modules}
    gone |= {"peft", "trl"}  # which need accelerate; transformers imports peft where it is there
    code = WITHOUT.format(gone=gone, commands=[SCORE, *ANSWERS])
    command, paths = [sys.executable, "-W", "ignore", "-c", code], os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": paths}
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert run.returncode == 0, run.stderr
    assert {path.name for path in folder.iterdir()} == {"folder", "data.jsonl", "scores"}
    return json.loads(run.stdout)


SCORE = "score --tokens 4096 --json"
ANSWERS = {
    "probe --data data.jsonl": "probing needs scikit-learn and matplotlib: pip install 'linscore[probe]'",
    "train --config 1M --out out": "training needs accelerate and matplotlib: pip install 'linscore[train]'",
    "distil folder --out out": "distilling needs accelerate and matplotlib: pip install 'linscore[train]'",
    "finetune-delta --data data.jsonl": "fine-tuning needs accelerate and scikit-learn: pip install 'linscore[train]'",
    "dynamics embedded --out out": "a series of checkpoints needs matplotlib: pip install 'linscore[plots]'",
    "score --dataset some --out out": "--dataset needs datasets: pip install 'linscore[datasets]'",
    "evaluate embedded --dataset some": "--dataset needs datasets: pip install 'linscore[datasets]'",
    "score --text folder/rows.parquet": "parquet needs pyarrow: pip install 'linscore[datasets]'",
    "score --text folder --out out": "parquet needs pyarrow: pip install 'linscore[datasets]'",
    "evaluate embedded --tasks boolq": "--tasks needs lm-eval and accelerate: pip install 'linscore[tasks]'",
}
WITHOUT = """
import contextlib, io, json, sys
sys.modules |= dict.fromkeys({gone})  # what None stands for cannot be imported, and is not found
from linscore import cli
ended = {{}}
for command in {commands}:
    sys.argv, code = ["linscore", *command.split()], 0
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    ended[command] = code, output.getvalue(), error.getvalue()
print(json.dumps(ended))
"""


@pytest.mark.slow
def test_scoring_needs_no_extra(bare):
    code, printed, error = bare[SCORE]
    assert code == 0, error
    assert len(json.loads(printed)["blocks"]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("command", ANSWERS)
def test_a_job_says_in_one_line_what_it_needs(command, bare):
    assert bare[command] == [2, "", f"linscore: {ANSWERS[command]}\n"]


@pytest.mark.parametrize(
    ("gone", "read"),
    [
        ("datasets", lambda _: read_dataset_rows("some")),
        ("datasets", lambda _: Source(dataset="some").check()),
        ("pyarrow", lambda folder: read_rows(folder / "rows.parquet")),
    ],
)
def test_readers_say_it_before_they_read(gone, read, monkeypatch, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(LinscoreError, match=rf"needs {gone}: pip install 'linscore\[datasets\]'$"):
        read(tmp_path)


def test_nothing_is_said_where_all_is_there():
    need("probe", "probing", *EXTRAS["probe"])


def test_doctor_says_how_to_get_what_is_missing(monkeypatch):
    assert dict(doctor.findings())["extra probe"].startswith("scikit-learn ")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    found = dict(doctor.findings())
    assert found["extra probe"] == "missing scikit-learn: pip install 'linscore[probe]'"
    assert found["extra plots"].startswith("matplotlib ")


@pytest.mark.parametrize(("gpu", "said"), [(True, "pip install 'linscore[triton]'"), (False, "only a GPU's kernels")])
def test_triton_is_missed_only_where_there_is_a_gpu(gpu, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(doctor, "_gpu", lambda: "some")
    found = dict(doctor.findings())
    assert said in found["triton"]
    assert found["backend"] == "eager"
