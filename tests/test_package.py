"""What is given out: an sdist with all that the repository holds, and the wheel that is built from it and installed."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
OF_THE_REPOSITORY = {".github/workflows/ci.yml", ".gitignore", ".pre-commit-config.yaml"}
LINK = re.compile(r"\]\(([^)]+)\)")

# The accumulator, where nothing is installed but torch.
ALONE = """
import sys
sys.modules.update(dict.fromkeys(["transformers", "safetensors", "rich", "click", "huggingface_hub", "yaml", "numpy"]))
import torch, linscore
assert sys.argv[1] in linscore.__file__, linscore.__file__
x = torch.randn(300, 8)
y, moments = x @ torch.randn(8, 8) + 0.1 * torch.randn(300, 8), linscore.Moments(8)
moments.update(x, y)
X, Y = (t.double() - t.double().mean(0) for t in (x, y))
fit = X @ torch.linalg.lstsq(X, Y).solution
wanted = 1 - ((fit - Y).norm() / Y.norm()) ** 2
assert abs(linscore.block_metrics(moments).linearity - wanted) < 1e-5
assert linscore.fit_block_map(moments).residual_norms(x, y).shape == (300,)
"""


def run(*command: object, **options: object) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=clean, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist, unpacked, and the wheel that it gives."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("package")
    ignored = shutil.ignore_patterns(".git", ".venv", "*_cache", "__pycache__", ".hypothesis", "build", "dist", "site")
    shutil.copytree(ROOT, folder / "sources", ignore=ignored)
    sdist = run(sys.executable, "-c", BUILD, "build_sdist", folder, cwd=folder / "sources").split()[-1]
    with tarfile.open(folder / sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.removesuffix(".tar.gz")
    return unpacked, folder / run(sys.executable, "-c", BUILD, "build_wheel", folder, cwd=unpacked).split()[-1]


@pytest.fixture(scope="module")
def names(built) -> list[str]:
    """Every file of the wheel."""
    return zipfile.ZipFile(built[1]).namelist()


@pytest.fixture(scope="module")
def metadata(built, names) -> Message:
    (name,) = (name for name in names if name.endswith("METADATA"))
    return message_from_bytes(zipfile.ZipFile(built[1]).read(name))


@pytest.mark.slow
def test_the_sdist_holds_what_the_repository_does(built):
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("these are no sources under git")
    tracked = set(run("git", "-c", "core.quotepath=off", "ls-files", cwd=ROOT).split())
    there = {path for path in tracked - OF_THE_REPOSITORY if (ROOT / path).exists()}
    assert {path for path in there if not (built[0] / path).is_file()} == set()


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_else(built, names):
    assert built[1].stat().st_size <= 7e6
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"linscore", "linscore_kernels"}
    for package, root in (("linscore", ROOT), ("linscore_kernels", ROOT / "kernels")):
        modules = {path.relative_to(root).as_posix() for path in (root / package).rglob("*.py")}
        assert modules <= set(names)
        assert f"{package}/py.typed" in names
    assert not any("embedded/cosine" in name for name in names)


@pytest.mark.slow
def test_the_metadata_says_what_it_is(metadata):
    assert metadata["License-Expression"] == "MIT"
    assert {"LICENSE", "linscore/embedded/NOTICE"} == {*metadata.get_all("License-File")}
    assert not any(line.startswith("License ::") for line in metadata.get_all("Classifier"))  # PEP 639
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# linscore")
    assert all("://" in target or target.startswith("#") for target in LINK.findall(metadata.get_payload()))


@pytest.mark.slow
def test_the_wheel_runs_where_it_alone_is_installed(built, tmp_path):
    pytest.importorskip("pip")
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python, place = tmp_path / "env/bin/python", {"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")}
    packages = Path(sysconfig.get_path("purelib", "venv", place))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # torch and the like, without this linscore
    asked = ("--no-deps", "--no-index", "--no-compile", "--quiet", built[1])
    run(sys.executable, "-m", "pip", "--python", python, "install", *asked)
    assert run(tmp_path / "env/bin/linscore", "--version").startswith("linscore, version")
    assert "Usage: linscore score" in run(tmp_path / "env/bin/linscore", "score", "--help")
    run(python, "-W", "ignore", "-c", ALONE, packages, cwd=tmp_path)


def test_the_image_for_cpus_has_every_extra_but_triton():
    extras = re.search(r'^all = \["linscore\[(.+),triton\]"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert extras
    assert f"/src[{extras[1]}]" in (ROOT / "docker/cpu.Dockerfile").read_text()


def test_links_of_the_readme_hold_on_another_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    inside = [target for target in LINK.findall(text) if "://" not in target]
    assert len(inside) > 10
    there = LINK.findall(SETUP["readme"](text, "https://example.org/linscore", "v1"))
    for target in inside:
        assert (ROOT / target.split("#")[0]).exists(), target
        assert (
            f"https://example.org/linscore/{'raw' if target.endswith(('svg', 'png')) else 'blob'}/v1/{target}" in there
        )
    assert not any("example.org" in address for address in SETUP["addresses"]("", "v1").values())


@pytest.mark.parametrize(
    ("text", "without", "within"),
    [
        ("[how\nto](a/b.md#c), then", "how\nto, then", "[how\nto](R/blob/T/a/b.md#c), then"),
        ("![a picture](p.svg)\nText", "Text", "![a picture](R/raw/T/p.svg)\nText"),
        ("[there](https://x.org) and [here](#here)", None, None),
    ],
)
def test_a_link_into_the_repository_becomes_words_where_nobody_knows_where_that_is(text, without, within):
    assert SETUP["readme"](text, "", "T") == (text if without is None else without)
    assert SETUP["readme"](text, "R", "T") == (text if within is None else within)
