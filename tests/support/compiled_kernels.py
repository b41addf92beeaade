"""Kernels compiled for an architecture without its GPU, and what the PTX and the cubin say of them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

SUPPORT = str(Path(__file__).parent)  # for processes that compile: they are started without pytest
# Shared memory per block that the architecture grants, bytes (CUDA C++ programming guide, compute capabilities).
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}


MATRIX_INSTRUCTION = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05.mma", 120: "mma.sync"}


TENSOR_MEMORY = 512  # columns on sm_100; past it Triton 3.6 to 3.9 compiles "successfully" to an empty body


def compile_case(architecture: int, kernel, types: dict, constants: dict, options: dict) -> dict:
    """Compile as the launcher would for arguments divisible by 16 where marked so, and read off the facts."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    position = {name: index for index, name in enumerate(kernel.arg_names)}
    aligned = {(position[k],): [["tt.divisibility", 16]] for k, v in types.items() if v[0] == "*" or v.endswith("/16")}
    signature = {name: types[name].removesuffix("/16") if name in types else "constexpr" for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {(position[k],): v for k, v in constants.items()}, aligned)
    options = options | {"enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    facts = resources(compiled.asm["cubin"])
    matrix = sorted(set(re.findall(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync", compiled.asm["ptx"])))
    asynchronous = next((name for name in ("cp.async.bulk", "cp.async") if name in compiled.asm["ptx"]), None)
    block = constants.get("BLOCK_K", 0) * (constants.get("BLOCK_M", 0) + constants.get("BLOCK_N", 0))
    tensor_memory = getattr(compiled.metadata, "tmem_size", 0) or 0
    return facts | {
        "shared": compiled.metadata.shared,
        "stage": 2 * block,  # bytes of the operands of one step
        "threads": 32 * compiled.metadata.num_warps,
        "matrix": matrix,
        "tensor_memory": tensor_memory,
        "asynchronous": asynchronous,
    }


def resources(cubin: bytes) -> dict[str, int]:
    """Registers per thread, and bytes of stack and local memory, which is where spilled registers go."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return {key.lower(): int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def compile_or_explain(case: tuple) -> dict:
    try:
        return compile_case(*case)
    except Exception as error:  # raised again by the test of this case
        return {"error": repr(error)[:2000]}


def assert_fits(case: dict, architecture: int, spill: int = 0) -> None:
    assert "error" not in case, case["error"]
    assert case["local"] == 0
    assert case["stack"] <= spill, "registers spill"
    assert case["reg"] <= 255
    assert case["reg"] * case["threads"] <= 65536, "no multiprocessor has so many registers: the launch would fail"
    assert case["shared"] <= SHARED[architecture]
