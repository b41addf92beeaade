"""The kernels by themselves: with torch alone, as builds that the `kernels` package loads, and as the README says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import hub_build
import linscore_kernels
import pytest
import torch
from linscore_kernels import pilot

KERNELS = Path(linscore_kernels.__file__).parents[1]
EXAMPLES = re.findall(r"^## (.+?)$|^```python\n(.*?)^```$", (KERNELS / "README.md").read_text(), re.M | re.S)

# What a process does that has neither linscore nor anything that torch does without.
LOADED_ALONE = """
import sys
sys.modules.update(dict.fromkeys(["linscore", "linscore_kernels", "numpy", "transformers", "safetensors"]))
from pathlib import Path
import torch
from kernels import get_local_kernel
from kernels._rust import Build, Digest, DigestAlgorithm, Metadata

x, found = torch.arange(12.0).view(4, 3), []
for folder in map(Path, sys.argv[1:]):
    Build.open(folder)
    variant = folder / "build" / "torch-cpu"
    Metadata.read_from_file(variant / "metadata.json").digest.validate(
        Digest.hash_variant(DigestAlgorithm.SHA256, variant)
    )
    found.append(get_local_kernel(folder, backend="cpu"))
one, other = found
assert one.symmetric_gram is not other.symmetric_gram
for kernel in found:
    assert torch.equal(kernel.symmetric_gram(x), x.T @ x)
    moments = kernel.centered_gram(x, x * x, normalize=False)
    assert torch.allclose(moments.c_xx, 3 * torch.cov(x.T).double())
    weight = torch.ones(4, requires_grad=False)
    assert torch.allclose(kernel.layer_distances([x, 2 * x], weight)[0][0], torch.tensor(0.0), atol=1e-6)
    assert kernel.residual_norms(x, x, b=torch.eye(3), mean_x=x[0], mean_delta=x[0]).shape == (4,)
    assert kernel.__version__
print(*(name for name in dir(torch.ops) if "linscore" in name))
"""


@pytest.mark.slow
def test_two_builds_load_beside_each_other_without_linscore_and_numpy(tmp_path, monkeypatch):
    pytest.importorskip("kernels", reason="kernels, of the extra dev, loads what is on the Hub")
    hub_build.lay_out(tmp_path / "one")
    files = hub_build.sources()
    monkeypatch.setattr(hub_build, "sources", lambda: files | {"sums.py": files["sums.py"] + b"# another build\n"})
    hub_build.lay_out(tmp_path / "two")
    code = [sys.executable, "-W", "ignore", "-c", LOADED_ALONE, str(tmp_path / "one"), str(tmp_path / "two")]
    run = subprocess.run(code, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    namespaces = [
        json.loads((tmp_path / name / "build/torch-cpu/metadata.json").read_text())["id"] for name in ("one", "two")
    ]
    assert sorted(run.stdout.split()) == sorted(namespaces)
    assert len(set(namespaces)) == 2


def test_a_build_holds_every_file_that_the_package_does_and_no_more():
    there = {
        path.relative_to(KERNELS / "linscore_kernels").as_posix() for path in KERNELS.rglob("linscore_kernels/**/*")
    }
    assert set(hub_build.sources()) == {name for name in there if "." in name and "__pycache__" not in name}


@pytest.mark.parametrize("rows", [1, 2, 9, 256])
def test_without_numpy_a_pilot_is_the_same(monkeypatch, rows):
    x, y = torch.randn(2, rows, 24, generator=torch.Generator().manual_seed(rows))
    wanted = pilot.Pilot.choose(x, y)
    monkeypatch.setattr(pilot, "np", None)
    found = pilot.Pilot.choose(x, y)
    assert torch.equal(found.centers, wanted.centers)
    assert torch.equal(found.scales, wanted.scales)
    assert (found.limit_x, found.limit_delta) == (wanted.limit_x, wanted.limit_delta)


def examples() -> list:
    """Each example of the README under the heading that it stands below."""
    heading, found = "", []
    for title, code in EXAMPLES:
        heading = title or heading
        if code:
            found.append(pytest.param(code, id=heading))
    return found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("code", examples())
def test_what_the_readme_shows_runs(code):
    torch.manual_seed(0)
    exec(compile(code, "kernels/README.md", "exec"), {})
