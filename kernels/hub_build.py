"""Lay the kernels out as Hugging Face's `kernels` loads them: `python kernels/hub_build.py FOLDER`.

    FOLDER/build.toml                   for kernel-builder, which uploads `build/` by it
    FOLDER/torch-ext/linscore_kernels   the sources, where kernel-builder looks for them
    FOLDER/build/torch-cpu, torch-cuda  a build of each kind: the sources, `_ops.py` and metadata.json
    FOLDER/README.md                    kernels/README.md as the card of the repository

Nothing is compiled: Triton does that where the kernels run. Form: the kernel requirements and `[torch-noarch]` of
https://github.com/huggingface/kernels, as of kernels 0.17.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path

from linscore_kernels import __version__

HERE = Path(__file__).parent
NAME, PACKAGE = "linscore-kernels", "linscore_kernels"
MAJOR = int(__version__.split(".")[0])  # all that the Hub knows of a version
EXTENSIONS = ("py", "json", "typed")
BACKENDS = ("cpu", "cuda")
NAMESPACE = '_OPS_NAME = "linscore"'  # as it stands in _ops.py
BUILD_TOML = f"""\
[general]
name = "{NAME}"
version = {MAJOR}
edition = 5
license = "MIT"
backends = {json.dumps(BACKENDS)}

[torch-noarch]
pyext = {json.dumps(EXTENSIONS)}
"""
CARD = "---\nlibrary_name: kernels\nlicense: mit\n---\n\n"


def sources() -> dict[str, bytes]:
    """Every file of the package, by its path within."""
    root = HERE / PACKAGE
    paths = sorted(path for extension in EXTENSIONS for path in root.rglob(f"*.{extension}"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def lay_out(folder: Path) -> None:
    """Write all of it to `folder`, which must not be there yet."""
    files = sources()
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + data + b"\0" for name, data in files.items())).hexdigest()
    _write(folder, {"build.toml": BUILD_TOML.encode(), "README.md": CARD.encode() + (HERE / "README.md").read_bytes()})
    _write(folder / "torch-ext" / PACKAGE, files)
    shutil.copy(HERE.parent / "LICENSE", folder)
    for backend in BACKENDS:
        _write(folder / "build" / f"torch-{backend}", build(files, backend, digest[:12]))


def build(files: dict[str, bytes], backend: str, digest: str) -> dict[str, bytes]:
    """One build: the sources with operators in a namespace of their own, and what is known of it."""
    identity = f"_{PACKAGE}_{backend}_{digest}"
    ops = files["_ops.py"].decode()
    assert NAMESPACE in ops
    built = files | {"_ops.py": ops.replace(NAMESPACE, f'_OPS_NAME = "{identity}"').encode()}
    metadata = {
        "name": NAME,
        "id": identity,
        "version": MAJOR,
        "license": "MIT",
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {
            "algorithm": "sha256",
            "files": {
                name: base64.b64encode(hashlib.sha256(data).digest()).decode() for name, data in sorted(built.items())
            },
        },
    }
    return built | {"metadata.json": json.dumps(metadata, indent=2).encode()}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def main() -> None:
    """What the command line asks for."""
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit("usage: python kernels/hub_build.py FOLDER, which must not be there yet")
    lay_out(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
