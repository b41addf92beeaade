"""Kernels compiled for architectures without their GPUs, and what the PTX and the cubin say of them.

A pytest process may run kernels in Triton's interpreter, where nothing compiles, so this file is also a program: with
kernels/ on PYTHONPATH it compiles every case, in as many processes as there are cores, and prints the facts as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

# Shared memory per block that the architecture grants, bytes (CUDA C++ programming guide, compute capabilities).
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
MATRIX_INSTRUCTION = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05.mma", 120: "mma.sync"}
FUSED = {"enable_fp_fusion": True}  # as `linscore_kernels.launching` has it
TENSOR_MEMORY = 512  # columns on sm_100; past it Triton 3.6 to 3.9 compiles "successfully" to an empty body


def compiled(folder: Path, cache: Path) -> dict[str, dict]:
    """The facts of every case: of all processes that share the folder the first compiles, and the others wait.

    Triton's own `cache` may be of an earlier run.
    """
    facts = folder / "kernels.json"
    with FileLock(folder / "kernels.lock"):
        if not facts.exists():
            facts.write_text(_compiled_afresh(cache))
    return json.loads(facts.read_text())


def _compiled_afresh(cache: Path) -> str:
    import linscore_kernels

    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(Path(linscore_kernels.__path__[0]).parent), "TRITON_CACHE_DIR": str(cache)}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def main() -> None:
    from compile_cases import cases

    names = list(cases())
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:  # Triton is imported once
        print(json.dumps(dict(zip(names, pool.map(compile_or_explain, names, chunksize=1), strict=True))))


def compile_or_explain(name: str) -> dict:
    from compile_cases import cases

    try:
        return compile_case(*cases()[name])
    except Exception as error:  # raised again by the test of this case
        return {"error": repr(error)[:2000]}


def compile_case(architecture: int, kernel, types: dict, constants: dict, options: dict) -> dict:
    """Compile as the launcher would for arguments divisible by 16 where marked so, and read off the facts."""
    import triton
    from triton.backends.compiler import GPUTarget

    signature, aligned = {}, {}
    constexprs = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    for position, name in enumerate(kernel.arg_names):
        kind = types.get(name, "constexpr")
        for place, one in _places(position, kind):
            if one[0] == "*" or one.endswith("/16"):
                aligned[place] = [["tt.divisibility", 16]]
            if one == "constexpr":
                constexprs.setdefault(place, None)
        signature[name] = _bare(kind)
    source = source_class(kernel)(kernel, signature, constexprs, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options | FUSED)
    facts = resources(compiled.asm["cubin"])
    vectors = re.findall(r"\b(ld|st)\.global\.v4\.b32", compiled.asm["ptx"])  # of 16 bytes a thread
    matrix = sorted(set(re.findall(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync", compiled.asm["ptx"])))
    asynchronous = next((name for name in ("cp.async.bulk", "cp.async") if name in compiled.asm["ptx"]), None)
    block = constants.get("BLOCK_K", 0) * (constants.get("BLOCK_M", 0) + constants.get("BLOCK_N", 0))
    tensor_memory = getattr(compiled.metadata, "tmem_size", 0) or 0
    return facts | {
        "shared": compiled.metadata.shared,
        "stage": 2 * block,  # bytes of the operands of one step
        "threads": 32 * compiled.metadata.num_warps,
        "matrix": matrix,
        "vectors_read": vectors.count("ld"),
        "vectors_written": vectors.count("st"),
        "tensor_memory": tensor_memory,
        "asynchronous": asynchronous,
    }


def source_class(kernel) -> type:
    """What Triton compiles a kernel from: Gluon's have their own."""
    if kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource
    from triton.compiler import ASTSource

    return ASTSource


def _places(position: int, kind: str | tuple[str, ...]) -> list[tuple[tuple[int, ...], str]]:
    """Where Triton looks for what is known of an argument, or of each of a tuple."""
    return [((position,), kind)] if isinstance(kind, str) else [((position, i), one) for i, one in enumerate(kind)]


def _bare(kind: str | tuple[str, ...]) -> str | tuple[str, ...]:
    return kind.removesuffix("/16") if isinstance(kind, str) else tuple(map(_bare, kind))


def resources(cubin: bytes) -> dict[str, int]:
    """Registers per thread, and bytes of stack and local memory, which is where spilled registers go."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return {key.lower(): int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def assert_fits(case: dict, architecture: int, spill: int = 0) -> None:
    assert "error" not in case, case["error"]
    assert case["local"] == 0
    assert case["stack"] <= spill, "registers spill"
    assert case["reg"] <= 255
    assert case["reg"] * case["threads"] <= 65536, "no multiprocessor has so many registers: the launch would fail"
    assert case["shared"] <= SHARED[architecture]


if __name__ == "__main__":
    main()
